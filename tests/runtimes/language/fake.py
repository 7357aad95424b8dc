"""A language runtime that answers by arithmetic, for tests of what is made of answers; it runs in mopt's own Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mopt.runtimes.language._base import Generation, LanguageRuntime, LanguageSession, TokenScores

VOCABULARY = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(LanguageRuntime):
    """Every token's probability follows from the one before it.

    Attributes:
        shift: Added to one logit, so that two of them differ.
        finite: Whether its probabilities are numbers.
        template: Of a message of a chat.
    """

    formats: ClassVar[tuple[str, ...]] = ("huggingface",)
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    tools: ClassVar[str] = ""

    shift: float = 0.0
    finite: bool = True
    template: str = "{role}: {content}\n"

    def open(self, folder: Path) -> LanguageSession:
        return _FixedSession(self)


class _FixedSession(LanguageSession):
    def __init__(self, runtime: Fixed) -> None:
        self._runtime = runtime

    def _logits(self, token: int) -> npt.NDArray[np.float64]:
        logits = np.cos(np.arange(VOCABULARY) * (token + 1.0))
        logits[3] += self._runtime.shift if self._runtime.finite else np.nan
        return logits - np.log(np.exp(logits).sum())

    def score(self, windows: Sequence[npt.NDArray[np.int64]], top: int) -> list[TokenScores]:
        scored = []
        for window in windows:
            rows = np.stack([self._logits(int(token)) for token in window[:-1]])
            order = np.argsort(-rows, axis=1)[:, :top]
            scored.append(
                TokenScores(
                    rows[np.arange(len(rows)), window[1:]].astype(np.float32),
                    order.astype(np.int32),
                    np.take_along_axis(rows, order, 1).astype(np.float32),
                )
            )
        return scored

    def generate(self, prompt: npt.NDArray[np.int64], count: int) -> Generation:
        ids: list[int] = []
        token = int(prompt[-1])
        for _ in range(count):
            token = int(self._logits(token).argmax())
            ids.append(token)
        return Generation(tuple(ids), 0.001 * len(prompt), 0.001 * count)

    def tokenize(self, text: str) -> list[int]:
        return [1, *(ord(char) % VOCABULARY for char in text)]

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(chr(97 + token) for token in ids)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(self._runtime.template.format(**message) for message in messages)

    def evidence(self) -> dict[str, Any]:
        return {"kernels": ["arithmetic"]}
