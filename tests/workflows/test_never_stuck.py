"""Each kind of child is made to hang, really: it is noticed, told, tried once more, and what is lost is recorded.

Limits are those that mopt derives, with a sixth of what it adds for slow machines: the models answer in well under a
millisecond, so that seconds are enough to be sure.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import onnx
import pytest

from mopt.capacity.measure import MeasuredModel, measure_capacity
from mopt.cli import build as command
from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.exporters import _base as exporting
from mopt.exporters._export import export, validate_export
from mopt.profiles.machine import detect
from mopt.profiles.paired_runs import BenchmarkSubject, run_pair
from mopt.runtimes._base import SessionProcess
from mopt.runtimes._replica import ReplicaProcess
from mopt.search.compile import compile_passes
from mopt.search.driver import search
from mopt.search.quality import check_quality, record_reference
from mopt.search.screening import screen_latency
from mopt.search.selection import select_best
from mopt.search.trial import REFERENCE, Candidate
from mopt.system import watchdog
from mopt.system.deadlines import SHORTEST, TimeLimit
from mopt.system.hangs import recorded, recording
from mopt.workflows import build, verify
from tests.hanging import (
    ALWAYS,
    FirstRunsMeet,
    HangingExporter,
    HangingPass,
    HangingRuntime,
    Told,
    left,
    plan,
    planned,
)
from tests.search import cases
from tests.small import digits
from tests.workflows import artifacts

pytestmark = pytest.mark.slow

SHARE = 1 / 6
SOON = 60
"""Seconds within which a hang of something that was measured before has to be noticed, on a busy machine."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    from_expected = TimeLimit.from_expected.__func__

    def sooner(cls, expected, *, planned=0.0, at_least=SHORTEST):
        return from_expected(cls, expected, planned=planned, at_least=SHARE * at_least)

    monkeypatch.setattr(TimeLimit, "from_expected", classmethod(sooner))
    (idle,) = TimeLimit.__init__.__defaults__
    monkeypatch.setattr(TimeLimit.__init__, "__defaults__", (SHARE * idle,))
    monkeypatch.setattr(exporting, "_IDLE_SECONDS", SHARE * exporting._IDLE_SECONDS)
    monkeypatch.setattr(watchdog, "_IDLE_LOOK_SECONDS", SHARE * watchdog._IDLE_LOOK_SECONDS)


@pytest.fixture
def model(tmp_path):
    return cases.product(tmp_path / "model")


@pytest.fixture
def samples(tmp_path):
    return cases.labelled(tmp_path / "samples")


@pytest.fixture
def told():
    progress = Told()
    with recording(progress):
        yield progress


@pytest.fixture
def hangs(tmp_path):
    """A plan with one hang, which has happened at the end."""
    with planned(tmp_path, 1) as path:
        yield path


def feed():
    return {"x": np.ones((1, 16), np.float32)}


def trial(name, model, runtime):
    return dataclasses.replace(cases.trial(name, model), candidate=Candidate(name, (), runtime))


def reference(model):
    return trial(REFERENCE, model, cases.RUNTIME)


# --- survived ---------------------------------------------------------------------------------------------------------


def test_an_exporter_that_hangs_leaves_nothing_of_its_first_try(tmp_path, store, told):
    onnx.save(onnx.parser.parse_model(cases.PRODUCT.replace("scores = MatMul (x, w)", "scores = Identity (x)")
                                      .replace("batch, 4", "batch, 16")), tmp_path / "m.onnx")  # fmt: skip
    exporting, answering = plan(tmp_path / "exporting", 1), plan(tmp_path / "answering", 1)
    exporter = HangingExporter(source=str(tmp_path / "m.onnx"), exporting=exporting, answering=answering)
    exported = export(exporter, store)
    assert not (exported.model.folder / "half").exists()
    validate_export(exported, [feed(), feed()], store)
    assert left(exporting) == left(answering) == 0
    assert [line.split(":")[0].split()[0] for line in told.retries] == ["exporting", "running"]
    assert len(recorded()) == 2


def test_a_pass_that_hangs_starts_again_from_an_empty_folder(model, store, told, hangs):
    compiled = compile_passes((HangingPass(hangs=hangs),), model, store)
    assert compiled.records[0].detail == {"files": ["model.onnx"]}
    assert len(told.retries) == 1


@pytest.mark.parametrize("after", [-1, 0], ids=["loading", "the-first-inference"])
def test_what_was_never_measured_is_noticed_by_its_idleness(model, told, hangs, after):
    start = time.monotonic()
    with SessionProcess(HangingRuntime(threads=1, hangs=hangs, after=after), model) as session:
        assert session.run(feed())["scores"].shape == (1, 4)
    assert time.monotonic() - start < 2 * SOON
    assert "nothing done for" in told.retries[0]


def test_a_screening_turn_that_hangs_is_noticed_in_seconds(model, samples, told, hangs):
    start = time.monotonic()
    runtime = HangingRuntime(threads=1, hangs=hangs, after=20)
    (looked,) = screen_latency(cases.speed_task(model, samples), reference(model), [trial("hangs", model, runtime)], Told())
    assert looked.screened is not None
    assert looked.record.profile is not None
    assert time.monotonic() - start < SOON
    assert told.retries == [told.lines[0]]
    assert told.lines[0].startswith("hangs: no answer within ")
    assert recorded()[0].startswith("hangs: hung once")


def test_an_evaluation_that_hangs_gives_the_same_quality(model, samples, store, told, hangs):
    task = cases.quality_task(model, samples, store)
    expected = record_reference(task, model, cases.candidate(REFERENCE))
    runtime = HangingRuntime(threads=1, hangs=hangs, after=3)
    judged = check_quality(task, expected, trial("hangs", model, runtime))
    assert judged.alive
    assert judged.record.quality.difference == 0
    assert len(told.retries) == 1


def test_a_turn_of_the_shortlist_that_hangs_is_measured_in_a_fresh_process(model, samples, told, hangs):
    runtime = HangingRuntime(threads=1, hangs=hangs, after=20)
    task = cases.speed_task(model, samples, objective="size")  # by which the same model never wins
    result = select_best(task, reference(model), [trial("hangs", model, runtime)], ["hangs"], Told())
    assert result.trials[1].profile.depth == "full"
    assert len(told.retries) == 1


def test_golden_outputs_are_answered_by_a_fresh_process(model, told, hangs):
    with SessionProcess(HangingRuntime(threads=1, hangs=hangs, after=2), model) as session:
        outputs = list(build._run_singly(session, cases.signature(model), [feed()] * 4))
    assert len(outputs) == 4
    assert len(told.retries) == 1


def test_a_pair_of_the_gate_goes_on_with_a_fresh_process(model, told, hangs):
    runtime = HangingRuntime(threads=1, hangs=hangs, after=20)
    subject = BenchmarkSubject(lambda: SessionProcess(runtime, model), {1: [feed()]})
    rival = BenchmarkSubject(lambda: SessionProcess(cases.RUNTIME, model), {1: [feed()]})
    pair = run_pair(subject, rival, 0, budget_seconds=1.0)
    assert len(pair.candidate.logs[1].turns) == len(pair.baseline.logs[1].turns)
    assert len(told.retries) == 1


def test_verify_says_that_a_process_hung(tmp_path, monkeypatch, hangs):
    artifacts.write(tmp_path / "double.mopt", artifacts.doubling(tmp_path / "double"))
    runtime = HangingRuntime(threads=1, hangs=hangs, after=1)
    monkeypatch.setattr(verify, "make_runtime", lambda name, fields: runtime)
    verification = verify.verify(tmp_path / "double.mopt")
    assert verification.ok
    assert any("hung once" in warning for warning in verification.warnings)


def test_a_replica_gets_its_inputs_again(model, told, hangs):
    with ReplicaProcess(HangingRuntime(threads=1, hangs=hangs, after=20), model, 2) as replica:
        replica.keep({1: [feed()]})
        logs = replica.time(1, 0.05, 2, active=2)
        served = replica.serve(np.arange(10.0), 1)
    assert len(logs) == 2
    assert len(served.latencies) == 10
    assert len(told.retries) == 1


def test_instances_whose_first_inferences_must_not_meet_are_warmed_up_on_one_thread(model, told):
    with ReplicaProcess(FirstRunsMeet(threads=1), model, 3) as replica:
        replica.keep({1: [feed()]})
        assert len(replica.time(1, 0.05, 2, active=3)) == 3
    assert told.lines == []


# --- lost -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def always(tmp_path):
    return plan(tmp_path / "always", ALWAYS)


def test_a_search_goes_on_without_those_that_are_lost(model, samples, store, told, always):
    candidates = [
        Candidate("pass-hangs", (HangingPass(hangs=always),), cases.RUNTIME),
        Candidate("turn-hangs", (), HangingRuntime(threads=1, hangs=always, after=20)),
        cases.candidate("right", cases.Scale(by=3.0)),
    ]
    task = cases.search_task(model, samples, store)
    result = search(task, cases.candidate(REFERENCE), candidates, Told())
    outcomes = {each.name: each.outcome for each in result.trials}
    assert outcomes["pass-hangs"].rejection is Rejection.HUNG
    assert outcomes["turn-hangs"].rejection is Rejection.HUNG
    assert next(each for each in result.trials if each.name == "right").profile is not None
    assert len(told.retries) == 2
    lost = [warning for warning in recorded() if "is lost" in warning]
    assert [warning.split(":")[0] for warning in lost] == ["pass-hangs", "turn-hangs"]


def test_one_that_is_lost_in_the_shortlist_loses_nobody_else(model, samples, told, always):
    good = trial("good", model, dataclasses.replace(cases.RUNTIME, threads=1))
    bad = trial("bad", model, HangingRuntime(threads=1, hangs=always, after=20))
    task = cases.speed_task(model, samples, objective="size")  # by which the same model never wins
    result = select_best(task, reference(model), [bad, good], ["bad", "good"], Told())
    outcomes = {each.name: each for each in result.trials}
    assert outcomes["bad"].outcome.rejection is Rejection.HUNG
    assert outcomes["good"].profile.depth == "full"


def test_only_the_division_that_hangs_is_not_planned_for(model, told, always):
    runtime = HangingRuntime(threads=2, hangs=always, after=20, fewest_sessions=2)
    measured = MeasuredModel(runtime, model, cases.signature(model), [feed()])
    profile = measure_capacity(measured, machine=detect(), max_batch=2, cores=2, seconds=0.1, progress=told)
    assert [(group.instances, group.threads) for group in profile.instance_groups] == [(1, 2)]
    assert [batch.batch for batch in profile.instance_groups[0].solo] == [1, 2]
    assert any(warning.startswith("2 instances with 1 thread cannot be planned for") for warning in recorded())


def test_a_source_that_always_hangs_is_the_users_to_mend(tmp_path, store, told, always, model):
    exporter = HangingExporter(source=str(model.file), exporting=always, answering=always, inline_functions=False)
    with pytest.raises(UserError, match="cannot be exported: no answer within 8 s"):
        export(exporter, store)
    assert len(told.retries) == 2  # the exporter, and the more cautious one


def test_a_session_that_hangs_again_later_is_lost_at_once(model, told, tmp_path):
    twice = plan(tmp_path / "twice", 2)
    with SessionProcess(HangingRuntime(threads=1, hangs=twice, after=2), model) as session:
        for _ in range(4):  # the third hangs, and is answered by a fresh process, whose second this is then
            session.run(feed())
        with pytest.raises(CandidateRejectedError) as caught:
            session.run(feed())
        assert session.lost
    assert caught.value.rejection is Rejection.HUNG
    assert len(told.retries) == 1
    assert left(twice) == 0


def test_a_build_ends_well_and_says_everywhere_what_was_lost(tmp_path, store, monkeypatch, capsys, always):
    small = digits(tmp_path)
    lost = Candidate("hangs-fp32", (), HangingRuntime(threads=1, hangs=always, after=20))
    monkeypatch.setattr(build, "candidates_of", lambda *_: [lost])
    progress = Told()
    artifact = build.build(
        model=str(small.model), data={"path": str(small.data), "label": "label"}, search={"max_batch": 1, "rounds": 5},
        out=tmp_path / "digits.mopt", store=store, progress=progress,
    )  # fmt: skip
    (warning,) = artifact.manifest.warnings
    assert warning.startswith("hangs-fp32: hung, hung in a second process as well, and is lost: no answer within")
    assert artifact.manifest.chosen == artifact.manifest.reference.name
    assert artifact.manifest.trials[1].outcome.rejection is Rejection.HUNG
    assert len(progress.retries) == 1
    assert warning in (artifact.folder / "report.md").read_text()
    assert warning in (artifact.folder / "report.html").read_text()
    command._print_artifact(artifact, as_json=False, all_rows=False)
    assert f"warning   {warning}" in " ".join(capsys.readouterr().out.split(" "))
