"""Candidates and trials."""

import pytest

from mopt.errors import CandidateRejectedError, MissingEnvironmentError, Rejection
from mopt.passes.language.quantize_rtn import QuantizeRTN
from mopt.search.language.trial import LanguageCandidate, new_language_trial
from tests.runtimes.language.fake import Fixed


def test_a_pass_that_does_not_read_what_is_there_is_a_mistake_of_ours() -> None:
    candidate = LanguageCandidate(name="x", passes=(QuantizeRTN(),), runtime=Fixed(threads=1), method="none")
    with pytest.raises(ValueError, match="does not load quantized"):
        candidate.check("huggingface")
    with pytest.raises(ValueError, match="reads huggingface, and not gguf"):
        candidate.check("gguf")


def test_what_a_process_raised_is_the_outcome() -> None:
    trial = new_language_trial(LanguageCandidate(name="x", passes=(), runtime=Fixed(threads=1), method="none"))
    assert trial.alive
    crashed = trial.reject_failed(CandidateRejectedError(Rejection.CRASHED, "died of\nSIGABRT")).record.outcome
    assert crashed is not None
    assert crashed.reason == "died of SIGABRT"
    missing = trial.reject_failed(MissingEnvironmentError("vllm")).record.outcome
    assert missing is not None
    assert missing.rejection == Rejection.SKIPPED
    assert "mopt tools install vllm" in missing.reason
