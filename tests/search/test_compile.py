import onnx_ir as ir
import pytest

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.search.compile import compile_passes
from tests.search.cases import Odd, Scale, product


def weight(model):
    return float(ir.load(model.file).graph.initializers["w"].const_value.numpy().max())


def test_passes_run_in_their_order_and_each_says_what_it_did(tmp_path, store):
    model = product(tmp_path)
    compiled = compile_passes((Scale(by=2.0), Scale(by=1.0), Scale(by=3.0)), model, store)
    assert weight(compiled.model) == 6
    assert weight(model) == 1, "the source is never changed"
    assert [(record.fields, record.modified, record.cached) for record in compiled.records] == [
        ({"by": 2.0}, True, False), ({"by": 1.0}, False, False), ({"by": 3.0}, True, False),
    ]  # fmt: skip
    assert compiled.records[0].detail == {"by": 2.0}


@pytest.mark.slow
def test_what_has_run_on_the_same_model_is_taken_from_the_store(tmp_path, store):
    model = product(tmp_path / "a")
    first = compile_passes((Scale(by=2.0),), model, store)
    again = compile_passes((Scale(by=2.0),), product(tmp_path / "b"), store)
    assert [record.cached for record in again.records] == [True]
    assert again.model == first.model
    assert not compile_passes((Scale(by=2.0),), product(tmp_path / "c", 5.0), store).records[0].cached
    assert compile_passes((), model, store).model == model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "error", "message"),
    [
        ("not for it", NotApplicableError, "cases: it has no convolutions"),
        ("raises", CandidateRejectedError, "cases: ValueError: what is this"),
        ("dies", CandidateRejectedError, "cases: .*SIGABRT"),
        ("no model", CandidateRejectedError, "cases wrote no model"),
    ],
)
def test_a_pass_that_does_not_end_well_is_named_and_leaves_nothing(tmp_path, store, way, error, message):
    with pytest.raises(error, match=message) as caught:
        compile_passes((Odd(way=way),), product(tmp_path), store)
    if error is CandidateRejectedError:
        assert caught.value.rejection is (Rejection.CRASHED if way == "dies" else Rejection.FAILED)
    assert store.sizes().get("models", (0, 0))[0] == 0
