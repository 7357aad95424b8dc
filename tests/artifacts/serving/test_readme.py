import json

import numpy as np

from mopt.artifacts.serving._readme import golden_columns, golden_request, write_readme, write_request
from mopt.model.signature import Signature, TensorSpec
from tests.manifests import HOSTILE, manifest


def specs(dtype):
    return Signature(inputs=(TensorSpec(name="x", dtype=dtype, shape=("batch", 2)),), outputs=(), batch_axes={"x": 0})


def test_it_says_how_it_is_started_and_asked(tmp_path):
    (tmp_path / "request.json").write_text("{}")
    write_readme(
        tmp_path, title="Somewhere", manifest=manifest(name="net"), start="serve .", request="curl -d @request.json",
        notes=["mind the step"],
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# net in Somewhere\n")
    for line in ("serve .", "curl -d @request.json", "- mind the step"):
        assert line in text.splitlines()
    assert "Planned for 400 requests per second on 2 like this, p99 23.4 ms; mopt bench --server" in text


def test_a_name_is_no_markup(tmp_path):
    write_readme(
        tmp_path, title="S", manifest=manifest(name=HOSTILE, deployable=False, not_deployable_because=HOSTILE), start="s",
        request="r",
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text()
    assert "<script>" not in text
    assert "](javascript" not in text
    assert "**Not deployable**" in text


def test_a_golden_sample_is_a_request(tmp_path):
    record = manifest(signature=specs("float32"))
    write_request(tmp_path, record, [{"x": np.float32([[1, 2.5]])}])
    assert json.loads((tmp_path / "request.json").read_text()) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]}]
    }
    assert golden_request(manifest(signature=specs("str")), [{"x": np.array([["a", "b"]], dtype=object)}]) == {
        "inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}]
    }


def test_what_json_cannot_carry_has_none_and_nobody_is_told_to_send_it(tmp_path):
    assert golden_request(manifest(signature=specs("bfloat16")), [{"x": np.zeros((1, 2))}]) is None
    assert golden_request(manifest(signature=specs("float16")), [{"x": np.zeros((1, 2), np.float16)}], {"float16"}) is None
    write_request(tmp_path, manifest(), [])
    assert not list(tmp_path.iterdir())
    write_readme(tmp_path, title="S", manifest=manifest(), start="s", request="curl -d @request.json")
    assert "@request.json" not in (tmp_path / "README.md").read_text()


def test_columns_have_scalars_and_empty_axes_as_they_are_and_rows_no_batch_axis():
    shapes = {"rate": (), "past": ("batch", "past", 2), "x": ("batch", 2)}
    inputs = tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())
    signature = Signature(inputs=inputs, outputs=(), batch_axes={"past": 0, "x": 0})
    feed = {"rate": np.float32(3), "past": np.zeros((1, 0, 2), np.float32), "x": np.float32([[1, 2]])}
    record = manifest(signature=signature)
    assert golden_columns(record, [feed]) == {"rate": 3.0, "past": [[]], "x": [[1, 2]]}
    assert golden_columns(record, [feed], row=True) == {"rate": 3.0, "past": [], "x": [1, 2]}
    pair = manifest(signature=Signature(inputs=inputs[2:], outputs=(), batch_axes={"x": 0}, batch_size=2))
    assert golden_columns(pair, [{"x": feed["x"]}], row=True) == {"x": [[1, 2], [1, 2]]}
