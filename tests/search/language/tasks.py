"""A judging task on a runtime that answers by arithmetic, and a folder for it to load."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mopt.datasets.windows import ScoredWindows
from mopt.evaluators.language.log_loss import LogLoss
from mopt.evaluators.tolerance import Tolerance
from mopt.model.files import Model
from mopt.search.language.answers import AnswerTask
from mopt.search.language.judge import JudgingTask
from mopt.search.language.trial import LanguageCandidate
from mopt.system.store import Store
from tests.runtimes.language.fake import VOCABULARY, Fixed

DOCUMENTS = 12


def answer_task(folder: Path) -> AnswerTask:
    random = np.random.default_rng(3)
    windows = [random.integers(0, VOCABULARY, 40) for _ in range(DOCUMENTS)]
    return AnswerTask(
        windows=windows, prompts=[window[:8] for window in windows[:4]], answer=12, top=8, special=(), bos=1, stops=(),
        isa=("avx2",), store=Store(folder / "cache"),
    )  # fmt: skip


def source(folder: Path) -> Model:
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "config.json").write_text("{}")
    return Model.at("huggingface", folder / "source")


def judging_task(folder: Path, tolerance: str = "1%") -> JudgingTask:
    asked = answer_task(folder)
    names = tuple(f"document {index}" for index in range(DOCUMENTS))
    windows = ScoredWindows(tuple(asked.windows), (0,) * DOCUMENTS, names, dict.fromkeys(names, 100), 40, 39)
    return JudgingTask(
        source=source(folder), parameters=100, runtime=Fixed(threads=1), vocabulary=VOCABULARY, windows=windows, choices=None,
        asked=asked, metric=LogLoss(), tolerance=Tolerance.parse(tolerance), choices_tolerance=Tolerance.parse("1%"),
        confidence=0.95, inconclusive="accept", store=asked.store, memory=None, time_budget_s=600.0,
        size_of=lambda model: 200,
    )  # fmt: skip


def candidate(name: str, **fields: object) -> LanguageCandidate:
    unquantized = bool(fields.pop("unquantized", False))
    return LanguageCandidate(
        name=name,
        passes=(),
        runtime=Fixed(threads=1, **fields),
        method="none",
        unquantized=unquantized,  # type: ignore[arg-type]
    )
