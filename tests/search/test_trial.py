import pytest

from mopt.errors import Rejection
from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.fold_constants import FoldConstants
from mopt.records.measurement import Estimate
from mopt.records.trial import PassRecord
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.trial import Candidate, new_trial, speedup_text, with_evidence
from tests.search.cases import entry


def test_a_reason_is_one_line():
    outcome = entry("a", 1).reject(Rejection.FAILED, "first\n  second").record.outcome
    assert outcome.reason == "first second"


def test_a_speed_up_shows_its_interval():
    assert speedup_text(Estimate(value=1.5, low=1.25, high=2.0, count=9)) == "1.50 (1.25 to 2.00) times"


def test_a_candidate_is_a_chain_of_formats_that_ends_in_its_runtime():
    with pytest.raises(ValueError, match="build_openvino makes openvino"):
        Candidate("a", (BuildOpenvino(),), OnnxRuntime(threads=1))
    with pytest.raises(ValueError, match="reads onnx, and build_openvino makes openvino"):
        Candidate("a", (BuildOpenvino(), FoldConstants()), OnnxRuntime(threads=1))
    assert new_trial(Candidate("a", (FoldConstants(),), OnnxRuntime(threads=1))).alive


def test_what_is_rejected_is_out_and_nothing_else_changed():
    before = entry("a", 7)
    after = before.reject(Rejection.WORSE, "it is worse")
    assert before.alive
    assert not after.alive
    assert after.record.size_bytes == 7
    assert after.update(outcome=None) == before


def test_the_precision_that_a_runtime_reports_is_a_field_of_its_own():
    record = with_evidence(entry("a", 1), {"precision": "int8+bf16", "threads": 2, "integer": {"Conv": 1}}).record
    assert record.effective_precision == "int8+bf16"
    assert record.evidence == {"threads": 2, "integer": {"Conv": 1}}


def test_the_precision_of_an_engine_is_that_of_its_layers():
    built = PassRecord(
        name="build_tensorrt", fields={}, modified=True, cached=False, seconds=1.0,
        detail={"computes": {"convolution INT8": 9, "gemm FP16": 2, "gemm INT8": 1}},
    )  # fmt: skip
    trial = entry("a", 1).update(passes=(built,))
    assert with_evidence(trial, {"engine": "..."}).record.effective_precision == "int8+fp16"
    assert with_evidence(entry("b", 1), {}).record.effective_precision == ""
