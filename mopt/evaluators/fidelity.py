"""How far the outputs of a candidate are from those of the reference, added up sample by sample."""

from __future__ import annotations

__all__ = ["Fidelity", "cosine", "is_rounding", "looks_like_scores"]

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy.typing as npt

LARGEST_SNR = 200.0
"""dB that stand for no difference at all: JSON has no infinity."""
LARGEST_KL = 1e3
"""Nats that stand for an infinite divergence: JSON has no infinity."""
LARGEST_MARGIN = 1e9
"""Times the difference that stand for an infinite margin: JSON has no infinity."""
_SMALLEST_SHARE = 1e-12
"""A share that is not 0, so that its logarithm is finite."""


_ROUNDING = 1e-5
"""Share of the largest output that another order of the same arithmetic may differ by."""
_FAR = 1000.0
"""How many times the difference a margin is, so that rounding never changes an answer."""


def is_rounding(figures: Mapping[str, float]) -> bool:
    """Whether the outputs of :meth:`Fidelity.summary` differ by rounding only, every answer far from being another one."""
    relative = [value for name, value in figures.items() if name.endswith(".relative_diff")]
    margins = [value for name, value in figures.items() if name.endswith(".margin")]
    equal = [value for name, value in figures.items() if name.endswith(".equal")]
    return bool(relative) and max(relative) <= _ROUNDING and min(margins, default=_FAR) >= _FAR and min(equal, default=1.0) == 1


class Fidelity:
    """Cosine similarity, signal to noise, largest difference and top-1 agreement of each output.

    Its memory depends on the number of outputs only.
    """

    def __init__(self) -> None:
        self._outputs: dict[str, _Sums] = {}

    def add(self, outputs: Feed, reference: Feed) -> None:
        """Add the outputs of one sample."""
        for name, truth in reference.items():
            self._outputs.setdefault(name, _Sums()).add(outputs[name], truth)

    def summary(self) -> dict[str, float]:
        """Return ``<output>.<measure>`` -> figure.

        Measures of floating-point outputs: ``cosine`` (mean over samples), ``snr_db`` (power of the reference over
        power of the difference, all samples together), ``max_abs_diff``, ``relative_diff`` (the same over the largest value
        of the reference) and, for scores of classes, ``top1``, ``kl`` (mean divergence in nats) and ``margin`` (between the
        two best classes over the largest difference, of the sample where that is least). Of other outputs: ``equal``,
        the share of equal values.
        """
        figures: dict[str, float] = {}
        for name, sums in self._outputs.items():
            figures |= {f"{name}.{measure}": value for measure, value in sums.summary().items()}
        return figures


@dataclasses.dataclass
class _Sums:
    samples: int = 0
    exact: bool = False
    equal: float = 0.0
    cosine: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    highest: float = 0.0
    margin: float = LARGEST_MARGIN
    scored: int = 0
    agreed: int = 0
    divergence: float = 0.0

    def add(self, answer: npt.NDArray[Any], truth: npt.NDArray[Any]) -> None:
        import numpy as np

        self.samples += 1
        if truth.dtype.kind != "f":
            self.exact = True
            same_shape = answer.shape == truth.shape
            self.equal += (float((answer == truth).mean()) if truth.size else 1.0) if same_shape else 0.0
            return
        self.cosine += cosine(answer, truth)
        signal = truth.astype(np.float64)
        noise = answer.astype(np.float64) - signal if answer.shape == truth.shape else signal
        self.signal += float((signal**2).sum())
        self.noise += float((noise**2).sum())
        self.largest = max(self.largest, float(np.abs(noise).max(initial=0.0)))
        self.highest = max(self.highest, float(np.abs(signal).max(initial=0.0)))
        if looks_like_scores(truth):
            second, first = np.partition(signal.reshape(-1), -2)[-2:]
            self.margin = min(self.margin, float(first - second) / max(float(np.abs(noise).max()), 1e-300))
            self.scored += 1
            self.agreed += int(answer.size > 0 and answer.argmax() == truth.argmax())
            self.divergence += kl_divergence(answer, truth) if answer.shape == truth.shape else float("inf")

    def summary(self) -> dict[str, float]:
        if self.exact:
            return {"equal": self.equal / self.samples}
        figures = {"cosine": self.cosine / self.samples, "snr_db": self._snr(), "max_abs_diff": self.largest}
        figures["relative_diff"] = self.largest / self.highest if self.highest else self.largest
        if self.scored == self.samples:
            figures["margin"] = self.margin
            figures["top1"] = self.agreed / self.scored
            figures["kl"] = min(LARGEST_KL, self.divergence / self.scored)
        return figures

    def _snr(self) -> float:
        if not self.noise:
            return LARGEST_SNR
        if not self.signal:
            return -LARGEST_SNR
        return max(-LARGEST_SNR, min(LARGEST_SNR, 10 * math.log10(self.signal / self.noise)))


def cosine(answer: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Return the cosine of the angle between two arrays: 1 when both are zero, 0 when one is or the shapes differ."""
    import numpy as np

    if answer.shape != truth.shape:
        return 0.0
    left, right = answer.astype(np.float64).reshape(-1), truth.astype(np.float64).reshape(-1)
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    if not size:
        return float(np.array_equal(left, right))
    return float(np.clip(left @ right / size, -1.0, 1.0))


def kl_divergence(answer: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Return the Kullback-Leibler divergence of an answer from the truth in nats.

    Scores that are no probabilities are taken as logits.
    """
    import numpy as np

    left, right = (_probabilities(value.astype(np.float64).reshape(-1)) for value in (answer, truth))
    return float((right * (np.log(right) - np.log(left))).sum())


def _probabilities(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import numpy as np

    are_shares = bool((values >= 0).all()) and abs(float(values.sum()) - 1) < 1e-3
    shares = np.maximum(values if are_shares else np.exp(values - values.max()), _SMALLEST_SHARE)
    probabilities: npt.NDArray[Any] = shares / shares.sum()
    return probabilities


def looks_like_scores(value: npt.NDArray[Any], *, strict: bool = True) -> bool:
    """Whether an output has the shape [1, C] of scores of classes; strictly: and is no vector of length one."""
    import numpy as np

    if value.dtype.kind != "f" or value.ndim != 2 or value.shape[0] != 1 or value.shape[1] < 2:
        return False
    values = value.astype(np.float64)
    embedding = abs(float(np.linalg.norm(values)) - 1) < 1e-3 and abs(float(values.sum()) - 1) > 1e-3
    return not (strict and embedding)
