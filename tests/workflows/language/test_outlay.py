"""What a build is said to take, and what it took."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mopt.evaluators.language.log_loss import LogLoss
from mopt.passes.language.export_gguf import ExportGguf
from mopt.passes.language.observe_imatrix import ObserveImatrix
from mopt.passes.language.quantize_gguf import QuantizeGguf
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.profiles.target import load_target
from mopt.records.language import LanguageTrial
from mopt.records.trial import PassRecord
from mopt.search.language.race import RacingTask
from mopt.workflows.language._outlay import expected_outlay, first_made, taken_outlay
from mopt.workflows.language._request import LanguageSite, LanguageTask
from mopt.workflows.language._text import EvaluationText
from mopt.workflows.language.source import load_source
from tests.language_models import TinyModel
from tests.search.language import tasks
from tests.search.language.spaces.inputs import space_inputs


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> LanguageSite:
    source = load_source(TinyModel().write(tmp_path / "model"))
    return LanguageSite(source, detect(), load_target("cpu", detect()), NoiseMonitor(), 256, 1, ())


@pytest.fixture(name="task")
def _task(tmp_path: Path) -> LanguageTask:
    judging = tasks.judging_task(tmp_path)
    text = EvaluationText(judging.windows, None, space_inputs(tmp_path).windows, (), "", {})
    racing = RacingTask(
        prompts=judging.asked.prompts, answer=8, objective="decode", shortlist=2, rounds=3, budget_seconds=60.0, memory=1 << 30
    )
    return LanguageTask(text=text, metric=LogLoss(), judging=judging, racing=racing)


def test_every_candidate_takes_its_time_and_what_two_of_them_share_is_made_once(site: LanguageSite, task: LanguageTask) -> None:
    observed = (ExportGguf(), ObserveImatrix(windows=task.text.calibration))
    first, second = (
        dataclasses.replace(tasks.candidate(kind), passes=(*observed, QuantizeGguf(type=kind))) for kind in ("q4_k_m", "q5_k_m")
    )
    alone, both = expected_outlay(site, task, [first]), expected_outlay(site, task, [first, second])
    assert 0 < alone.passes_seconds < alone.seconds
    assert alone.passes_seconds < both.passes_seconds < 2 * alone.passes_seconds
    assert both.disk_bytes == alone.disk_bytes + site.source.record.size_bytes // 2
    assert alone.memory_bytes > site.source.record.size_bytes
    refused = dataclasses.replace(first, refused=tasks.refused())
    assert expected_outlay(site, task, [refused]).passes_seconds == 0


def test_what_was_taken_is_told_of_a_build_that_made_everything(task: LanguageTask) -> None:
    made = PassRecord(name="export_gguf", fields={}, modified=True, cached=False, seconds=2.0, peak_bytes=300)
    again, before = (made.model_copy(update={"cached": True, "name": name}) for name in ("export_gguf", "quantize_gguf"))
    trials = [
        LanguageTrial(name=name, runtime="llama_cpp", runtime_fields={}, passes=(record,), peak_bytes=peak)
        for name, record, peak in (("a", made, 200), ("b", again, 400))
    ]
    taken = taken_outlay(trials, 9.0, 77)
    assert taken is not None
    assert (taken.memory_bytes, taken.seconds, taken.passes_seconds, taken.disk_bytes) == (400, 9.0, 2.0, 77)
    assert taken_outlay([*trials, trials[0].model_copy(update={"passes": (before,)})], 9.0, 77) is None


def test_the_same_pass_on_what_two_others_made_ran_twice() -> None:
    first, second, pack = (
        PassRecord(name=name, fields={}, modified=True, cached=False, seconds=2.0)
        for name in ("quantize_int8", "quantize_gptq", "export_compressed_tensors")
    )
    trials = [
        LanguageTrial(name=quantize.name, runtime="vllm", runtime_fields={}, passes=(quantize, pack))
        for quantize in (first, second)
    ]
    assert [record.name for record in first_made(trials)] == [first.name, pack.name, second.name, pack.name]
    taken = taken_outlay(trials, 9.0, 77)
    assert taken is not None
    assert taken.passes_seconds == 8.0
