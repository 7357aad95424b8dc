# ruff: noqa: RUF001 the lines are written in typographic signs
import re
from pathlib import Path

import pytest

from mopt.errors import Rejection
from mopt.records.measurement import Estimate
from mopt.records.trial import Outcome
from mopt.reports.candidates import candidate_rows
from mopt.reports.summary import (
    beside_load_text,
    closing_lines,
    folded_losers,
    is_quick,
    proof_text,
    short_outcome,
    shown_trials,
    time_text,
)
from tests.manifests import manifest, profile, quality, trial, trials

FOLDER = Path("my model.mopt")


def screened(name: str, rejection: Rejection, speed: float, judged=None):
    quick = profile(4.2, speed, (1,))
    return trial(name, speed, judged, Outcome(rejection=rejection, reason=f"{speed} of it"), profile=quick.model_copy(
        update={"depth": "screening"}
    ))  # fmt: skip


def test_what_was_measured_in_depth_has_a_row_and_no_quick_look_has():
    made = manifest()
    names = {each.name for each in shown_trials(made)}
    assert names == {trial.name for trial in trials() if trial.profile is not None and trial.profile.depth == "full"}
    quick = next(each for each in made.trials if each.name == "onnxruntime-int8-dynamic")
    assert is_quick(quick)
    assert not is_quick(made.winner)


def test_a_reference_that_was_never_measured_in_depth_has_its_row():
    only = manifest(chosen="onnxruntime-fp32", trials=(trial("onnxruntime-fp32", None, None, None), *trials()[6:]))
    assert [each.name for each in shown_trials(only)] == ["onnxruntime-fp32"]
    assert short_outcome(only.winner, only) == "chosen"


def test_every_loser_is_in_the_table_or_in_one_line():
    made = manifest()
    shown, text = {each.name for each in shown_trials(made)}, "\n".join(folded_losers(made))
    for each in made.trials:
        assert (each.name in shown) != (each.name in re.findall(r"[\w-]+", text)), each.name


def test_losers_with_the_same_reason_share_a_line_with_the_range_of_their_figures():
    many = (
        *trials()[:2],
        screened("a", Rejection.SLOWER, 0.151),
        screened("b", Rejection.SLOWER, 0.9),
        screened("c", Rejection.WORSE, 2.0, quality(-0.02, -0.03, "fail")),
        screened("d", Rejection.WORSE, 2.0, quality(-0.4, -0.5, "fail")),
        screened("e", Rejection.NOT_BEST, 1.5),
        trial("f", None, None, Outcome(rejection=Rejection.UNSUPPORTED, reason="no MatMul")),
        trial("g", None, None, Outcome(rejection=Rejection.UNSUPPORTED, reason="no MatMul")),
        trial("h", None, None, Outcome(rejection=Rejection.UNSUPPORTED, reason="no Conv")),
    )
    assert folded_losers(manifest(trials=many)) == [
        "2 slower: ~0.15× to ~0.92×: a, b",
        "2 worse: −40.0 pp to −2.00 pp: c, d",
        "1 not best: ~1.5×: e",
        "2 unsupported: no MatMul: f, g",
        "1 unsupported: no Conv: h",
    ]


def test_three_lines_say_what_was_chosen_what_it_gains_and_what_is_next():
    chosen, gain, following = closing_lines(manifest(), FOLDER)
    assert chosen == "mopt chose onnxruntime-int8 for resnet50 on 2 cores of AMD EPYC 7763, 39.2 MB instead of 102 MB."
    assert gain == (
        "2.66 times as fast as the reference (2.62 to 2.70, batch 1); accuracy 98.22 % against 98.42 %, at least −0.460 pp "
        "with 95 % confidence on 1,200 samples."
    )
    assert following == "Next: mopt verify 'my model.mopt' where it will be served, mopt bench 'my model.mopt' to load it."


def test_what_is_next_names_the_server_that_it_was_built_for():
    served = manifest(recipe={**manifest().recipe, "serve": ["triton@26.04", "bentoml"]})
    assert closing_lines(served, FOLDER)[2].startswith(
        "Next: mopt verify 'my model.mopt' --server triton where it will be served"
    )


def test_a_reference_that_is_kept_gains_nothing_and_says_so():
    kept = manifest(chosen="onnxruntime-fp32", why="no candidate was right")
    chosen, gain, _ = closing_lines(kept, FOLDER)
    assert chosen == "mopt kept the reference for resnet50 on 2 cores of AMD EPYC 7763: no candidate was right."
    assert "nothing is gained" in gain


def test_what_was_not_measured_has_no_figure():
    bare = trial("onnxruntime-int8", None, None, None)
    lines = closing_lines(manifest(trials=(trials()[0], bare)), FOLDER)
    assert lines[1] == "Its speed was not measured here; its quality was not measured."
    assert lines[2].startswith("Next: mopt verify 'my model.mopt' and mopt bench")


@pytest.mark.parametrize(
    ("judged", "end"),
    [
        (quality(-0.002, -0.0046), "at least −0.460 pp with 95 % confidence on 1,200 samples"),
        (quality(-0.002, -0.02, "inconclusive"), "not proven on 1,200 samples; about 900 would decide"),
    ],
)
def test_the_proof_says_how_sure_it_is(judged, end):
    assert proof_text(judged).endswith(end)


def test_a_disturbed_speed_is_called_so():
    made = manifest()
    batches = tuple(batch.model_copy(update={"disturbed": True}) for batch in made.winner.profile.batches)
    disturbed = made.winner.model_copy(update={"profile": made.winner.profile.model_copy(update={"batches": batches})})
    others = tuple(disturbed if each.name == disturbed.name else each for each in made.trials)
    gain = closing_lines(manifest(trials=others), FOLDER)[1]
    assert "(2.62 to 2.70, batch 1, disturbed by other work and not proven)" in gain
    row = next(row for row in candidate_rows(manifest(trials=others)) if row.state == "chosen")
    assert row.speedup == "2.66× disturbed"


def test_how_it_fares_beside_other_work_is_a_line_where_it_was_measured():
    assert beside_load_text(manifest()) == ""
    slow = Estimate(value=12.0, low=11.0, high=13.0, count=9)
    loaded = tuple(
        each.model_copy(update={"profile": each.profile.model_copy(update={"beside_load": slow})})
        if each.profile is not None
        else each
        for each in trials()
    )
    text = beside_load_text(manifest(trials=loaded))
    assert re.fullmatch(
        r"beside other work on one core it takes 12.0 ms instead of [\d.]+ ms, the reference 12.0 ms instead of [\d.]+ ms", text
    )


def test_the_time_names_the_longest_stages_and_no_moments():
    stages = {"reading": 0.6, "compiling": 12.0, "checking quality": 30.0, "profiling": 0.7, "writing": 1.2}
    assert (
        time_text(manifest(stage_seconds=stages))
        == "45 s: checking quality 30 s, compiling 12 s, writing 1.2 s, all else 1.3 s"
    )
    assert time_text(manifest(stage_seconds={"reading": 0.9, "writing": 0.8})) == "1.7 s"
    assert time_text(manifest(stage_seconds={"reading": 0.3})) == ""
