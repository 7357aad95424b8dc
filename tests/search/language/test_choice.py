"""Which candidate is shipped."""

from __future__ import annotations

import dataclasses

import pytest

from mopt.errors import Rejection, UserError
from mopt.records.language import LanguageTrial
from mopt.search.language.choice import choose
from mopt.search.language.trial import LanguageCandidate, LanguageTrialInMaking
from tests.language_manifests import speed, trial
from tests.runtimes.language.fake import Fixed

BASELINE = "llama_cpp-bf16"


def _trial(record: LanguageTrial) -> LanguageTrialInMaking:
    candidate = LanguageCandidate(name=record.name, passes=(), runtime=Fixed(threads=1), method="gguf")
    return LanguageTrialInMaking(record, candidate)


def _unquantized(decode: float = 30.0) -> LanguageTrialInMaking:
    return _trial(trial(BASELINE, speed=speed(decode, 200.0), size_bytes=270_000_000))


def test_the_fastest_of_those_that_hold_is_chosen_and_the_others_say_why_not() -> None:
    trials = [
        _unquantized(),
        _trial(trial("llama_cpp-q8_0", speed=speed(50.0, 210.0, 1.7))),
        _trial(trial("llama_cpp-q4_k_m", speed=speed(75.0, 190.0, 2.5))),
        _trial(trial("llama_cpp-q3_k_m", speed=speed(90.0, 180.0, 3.0))).reject(Rejection.WORSE, "log loss"),
    ]
    choice = choose(trials, "decode", BASELINE)
    assert choice.chosen.record.name == "llama_cpp-q4_k_m"
    outcomes = {each.record.name: each.record.outcome for each in choice.trials}
    assert outcomes["llama_cpp-q4_k_m"] is None
    assert outcomes["llama_cpp-q8_0"] is not None
    assert outcomes["llama_cpp-q8_0"].rejection == Rejection.NOT_BEST
    assert "75.0 tokens/s" in outcomes["llama_cpp-q8_0"].reason
    assert outcomes["llama_cpp-q3_k_m"] is not None
    assert outcomes["llama_cpp-q3_k_m"].rejection == Rejection.WORSE
    assert "the most tokens per second" in choice.why


def test_prefill_and_size_choose_by_their_own_figure() -> None:
    trials = [
        _unquantized(),
        _trial(trial("a", speed=speed(50.0, 400.0, 1.7), size_bytes=140_000_000)),
        _trial(trial("b", speed=speed(75.0, 300.0, 2.5), size_bytes=90_000_000)),
    ]
    assert choose(trials, "prefill", BASELINE).chosen.record.name == "a"
    assert choose(trials, "size", BASELINE).chosen.record.name == "b"


def test_what_is_not_faster_for_certain_is_not_shipped_in_the_place_of_the_unquantized_model() -> None:
    record = trial("llama_cpp-q8_0", speed=speed(31.0, 200.0, 1.01))
    choice = choose([_unquantized(), _trial(record)], "decode", BASELINE)
    assert choice.chosen.record.name == BASELINE
    outcome = choice.trials[1].record.outcome
    assert outcome is not None
    assert outcome.rejection == Rejection.SLOWER


def test_without_any_candidate_that_holds_the_reasons_are_named() -> None:
    trials = [
        _unquantized().reject(Rejection.CRASHED, "died of SIGABRT"),
        _trial(trial("x")).reject(Rejection.WORSE, "0.2 nats"),
    ]
    with pytest.raises(UserError, match=r"died of SIGABRT.*0.2 nats"):
        choose(trials, "decode", BASELINE)


def test_what_was_not_timed_is_no_winner() -> None:
    choice = choose([_unquantized(), _trial(trial("slow", speed=None))], "decode", BASELINE)
    assert choice.chosen.record.name == BASELINE
    outcome = choice.trials[1].record.outcome
    assert outcome is not None
    assert outcome.rejection == Rejection.SKIPPED


def test_without_a_baseline_the_fastest_is_chosen() -> None:
    record = dataclasses.replace(_trial(trial("only", speed=speed(10.0, 20.0))))
    assert choose([record], "decode", BASELINE).chosen.record.name == "only"
