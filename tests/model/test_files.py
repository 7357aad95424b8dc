import numpy as np
import pytest

from mopt.model.files import Model
from mopt.model.signature import Signature, TensorSpec
from mopt.system.digests import digest, folder_digest


@pytest.fixture
def signature():
    """Like a voice model: state is batched along axis 1, the rate is shared."""
    return Signature(
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=("batch", 4)),
            TensorSpec(name="state", dtype="float32", shape=(2, "batch", 3)),
            TensorSpec(name="rate", dtype="int64", shape=()),
        ),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 1)),),
        batch_axes={"x": 0, "state": 1, "y": 0},
    )


def feed(value):
    return {
        "x": np.full((1, 4), value, np.float32),
        "state": np.full((2, 1, 3), value, np.float32),
        "rate": np.array(16000),
    }


def test_samples_are_stacked_along_their_own_axes(signature):
    stacked = signature.stack([feed(1), feed(2), feed(3)])
    assert {name: value.shape for name, value in stacked.items()} == {"x": (3, 4), "state": (2, 3, 3), "rate": ()}
    assert stacked["state"][0, :, 0].tolist() == [1, 2, 3]


def test_taking_apart_undoes_stacking(signature):
    for before, after in zip([feed(1), feed(2)], signature.unstack(signature.stack([feed(1), feed(2)]), 2), strict=True):
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize(("changes", "expected"), [({}, True), ({"batch_size": 8}, False), ({"batch_axes": {}}, False)])
def test_requests_can_be_put_together_only_along_a_free_axis(signature, changes, expected):
    assert signature.model_copy(update=changes).batches is expected


def test_a_model_is_named_by_names_and_contents(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"a")
    first = Model.at("onnx", tmp_path)
    assert first.size == 1
    assert first.file == tmp_path / "model.onnx"
    (tmp_path / "model.onnx.data").write_bytes(b"")
    second = folder_digest(tmp_path)
    assert second != first.digest
    assert folder_digest(tmp_path, skip=["model.onnx.data"]) == first.digest


def test_a_digest_knows_types_and_ignores_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert len({digest({"a": value}) for value in (1, "1", 1.5, None, True, [1])}) == 6
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})
