"""Who is measured, and beside whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mopt.errors import Rejection
from mopt.profiles.noise import NoiseMonitor
from mopt.progress import Silent
from mopt.search.language.race import RacingTask, race
from mopt.search.language.trial import LanguageTrialInMaking, new_language_trial
from tests.search.language import tasks


def _trial(folder: Path, name: str, look: float, peak: int = 10, **fields: object) -> LanguageTrialInMaking:
    model = tasks.source(folder)
    trial = new_language_trial(tasks.candidate(name, **fields))
    return dataclasses.replace(trial, model=model, scored=model, look=look).update(peak_bytes=peak, size_bytes=100)


def _task(**changes: object) -> RacingTask:
    fields = {
        "prompts": [np.arange(10)], "answer": 4, "objective": "decode", "shortlist": 2, "rounds": 3, "budget_seconds": 9.0,
        "memory": 1000,
    }  # fmt: skip
    return RacingTask(**(fields | changes))  # type: ignore[arg-type]


def test_the_fastest_unquantized_one_is_the_baseline_and_the_likeliest_are_measured(tmp_path: Path) -> None:
    trials = [
        _trial(tmp_path, "plain-slow", 5.0, unquantized=True),
        _trial(tmp_path, "plain", 9.0, unquantized=True),
        _trial(tmp_path, "int8", 20.0),
        _trial(tmp_path, "int4", 30.0),
        _trial(tmp_path, "slowest", 1.0),
        _trial(tmp_path, "out", 99.0).reject(Rejection.WORSE, "0.2 nats"),
    ]
    measured, baseline = race(trials, _task(), NoiseMonitor(0.0), Silent())
    assert baseline == "plain"
    assert [trial.record.name for trial in measured if trial.record.speed] == ["plain", "int8", "int4"]
    assert [trial.record.name for trial in measured] == [trial.record.name for trial in trials]
    int4 = measured[3].record.speed
    assert int4 is not None
    assert int4.decode_ratio is not None


def test_what_does_not_fit_beside_the_others_is_not_opened(tmp_path: Path) -> None:
    trials = [_trial(tmp_path, "plain", 9.0, 600, unquantized=True), _trial(tmp_path, "int4", 30.0, 600)]
    measured, baseline = race(trials, _task(), NoiseMonitor(0.0), Silent())
    assert baseline == "plain"
    assert measured[1].record.speed is None
