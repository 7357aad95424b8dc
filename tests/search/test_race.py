import dataclasses

import pytest

from mopt.errors import Rejection
from mopt.records.measurement import Estimate, Profile
from mopt.search.effort import EFFORTS
from mopt.search.quality import compile_all, record_reference, reference_trial
from mopt.search.race import Race
from mopt.search.trial import REFERENCE
from tests.search.cases import Notes, Odd, Scale, candidate, labelled, product, search_task

NEVER = float("inf")
PROFILE = Profile(threads=1, load_ms=1, first_ms=1, peak_bytes=1, batches=(), depth="screening", limit="screened")


def speed(value):
    return Estimate(value=value, low=value - 0.05, high=value + 0.05, count=7)


@pytest.fixture
def race(tmp_path, store):
    """Start a race of candidates whose speed was screened."""

    def start(speeds, variants=(), effort="standard", objective="latency", **passes):
        model, samples = product(tmp_path / "model"), labelled(tmp_path / "samples")
        task = search_task(model, samples, store, effort=EFFORTS[effort], objective=objective)
        trials = compile_all(task.compiling, [candidate(name, *passes[name]) for name in speeds], NEVER, Notes())
        screened = [
            dataclasses.replace(trial.update(profile=PROFILE), screened=speed(value))
            for trial, value in zip(trials, speeds.values(), strict=True)
        ]
        expected = record_reference(task.quality, model, candidate(REFERENCE))
        return Race(task, reference_trial(model, candidate(REFERENCE)), expected, screened, variants, NEVER)

    return start


def outcomes(run):
    return {trial.record.name: trial.record.outcome.rejection if trial.record.outcome else None for trial in run.trials}


def test_what_is_surely_slower_than_one_that_holds_is_not_judged(race):
    run = race({"slow": 1.5, "fast": 2.0}, slow=[Scale(by=3.0)], fast=[Scale(by=2.0)])
    run.run(Notes())
    assert [trial.record.name for trial in run.holding] == ["fast"]
    assert {trial.record.name: trial.record.quality is not None for trial in run.trials} == {"slow": False, "fast": True}


def test_what_cannot_be_told_from_the_fastest_is_judged_too(race):
    run = race({"near": 1.97, "fast": 2.0}, near=[Scale(by=3.0)], fast=[Scale(by=2.0)])
    run.run(Notes())
    assert {trial.record.name for trial in run.holding} == {"near", "fast"}


def test_behind_one_that_is_wrong_the_next_one_is_judged(race):
    run = race({"slow": 1.5, "wrong": 2.0}, slow=[Scale(by=3.0)], wrong=[Scale(by=-1.0)])
    run.run(Notes())
    assert [trial.record.name for trial in run.holding] == ["slow"]
    assert outcomes(run)["wrong"] is Rejection.WORSE


def variant(name, leader, *passes):
    return dataclasses.replace(candidate(name, *passes), same_speed_as=leader)


def test_of_the_same_graph_the_closest_to_the_reference_goes_on_and_the_timing_is_shared(race):
    variants = [variant("closer", "leader", Scale(by=1.5)), variant("further", "leader", Scale(by=9.0))]
    run = race({"leader": 2.0}, variants, leader=[Scale(by=3.0)])
    progress = Notes()
    run.run(progress)
    assert [trial.record.name for trial in run.holding] == ["closer"]
    assert run.holding[0].screened.value == 2.0
    assert outcomes(run) == {"closer": None, "leader": Rejection.NOT_BEST, "further": Rejection.NOT_BEST}
    reason = next(trial.record.outcome.reason for trial in run.trials if trial.record.name == "leader")
    assert reason == "the same graph and types as closer, which is closer to the reference"


def test_a_variant_takes_over_from_a_candidate_that_is_wrong(race):
    run = race({"leader": 2.0}, [variant("right", "leader", Scale(by=1.5))], leader=[Scale(by=-1.0)])
    run.run(Notes())
    assert [trial.record.name for trial in run.holding] == ["right"]


def test_variants_of_what_cannot_win_are_not_compiled(race):
    variants = [variant("never", "slow", Odd(way="dies"))]
    run = race({"slow": 1.2, "fast": 2.0}, variants, slow=[Scale(by=3.0)], fast=[Scale(by=2.0)])
    run.run(Notes())
    never = next(trial.record for trial in run.trials if trial.record.name == "never")
    assert never.outcome.rejection is Rejection.NOT_BEST
    assert "not compiled: of the same graph and types as slow" in never.outcome.reason


@pytest.mark.slow
def test_quick_effort_tries_variants_only_of_what_is_wrong(race):
    variants = [variant("more", "leader", Odd(way="dies"))]
    run = race({"leader": 2.0}, variants, "quick", leader=[Scale(by=2.0)])
    run.run(Notes())
    assert [trial.record.name for trial in run.holding] == ["leader"]
    assert outcomes(run)["more"] is Rejection.NOT_BEST
    wrong = race({"leader2": 2.0}, [variant("more2", "leader2", Scale(by=2.0))], "quick", leader2=[Scale(by=-1.0)])
    wrong.run(Notes())
    assert [trial.record.name for trial in wrong.holding] == ["more2"]


@pytest.mark.slow
def test_the_shortlist_is_not_longer_than_it_may_be(race):
    names = [f"m{index}" for index in range(5)]
    passes = {name: [Scale(by=2.0 + index)] for index, name in enumerate(names)}
    run = race(dict.fromkeys(names, 2.0), **passes)
    run.run(Notes())
    assert len(run.holding) == EFFORTS["standard"].shortlist


def test_for_the_size_the_next_smallest_is_judged_too(race):
    run = race({"small": 1.0, "large": 1.5}, objective="size", small=[Scale(by=3.0)], large=[Scale(by=2.0)])
    run.run(Notes())
    assert {trial.record.name for trial in run.holding} == {"small", "large"}
