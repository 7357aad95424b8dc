"""A judging task on a runtime that answers by arithmetic, and a folder for it to load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from mopt.datasets.windows import ScoredWindows
from mopt.errors import Rejection
from mopt.evaluators.language.log_loss import LogLoss
from mopt.evaluators.tolerance import Tolerance
from mopt.model.files import Model
from mopt.model.quantization import Weights
from mopt.passes._base import FilePass, PassResult
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.records.trial import Outcome
from mopt.search.language.answers import AnswerTask
from mopt.search.language.judge import JudgingTask
from mopt.search.language.trial import LanguageCandidate
from mopt.system.store import Store
from tests.language_faults import scale_wrong
from tests.passes.language import neutral
from tests.runtimes.language.fake import VOCABULARY, Fixed

DOCUMENTS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize(FilePass):
    """Rounding in NumPy, which needs no environment."""

    takes: ClassVar[str] = "huggingface"
    makes: ClassVar[str] = "quantized"

    def apply(self, source: Model, folder: Path) -> PassResult:
        neutral.quantize(source.folder, folder / "written", Weights(group_size=32))
        for path in (folder / "written").iterdir():
            path.rename(folder / path.name)
        return PassResult(modified=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(ExportGPTQ):
    """An export, with the scale of one layer wrong where it is asked for."""

    tools: ClassVar[str] = ""

    broken: bool

    def apply(self, source: Model, folder: Path) -> PassResult:
        result = super().apply(source, folder)
        if self.broken:
            scale_wrong(folder)
        return result


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


def refused() -> Outcome:
    return Outcome(rejection=Rejection.UNSUPPORTED, reason="no such architecture")
