"""Whether an export gives what its source gives."""

from __future__ import annotations

__all__ = ["Difference", "compare"]

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_HALF_BYTES = 2
_ROUNDING = 1e-6
"""An absolute difference that float32 makes of a value near zero, such as a probability of 1e-6, whoever computes it."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two models are apart.

    Attributes:
        largest: Largest absolute difference of a float output, relative to that output's largest value over all samples.
        problem: What is wrong, with its figure; empty when nothing is.
    """

    largest: float
    problem: str = ""


def compare(expected: Sequence[Feed], actual: Sequence[Feed], *, slack: float = 1.0) -> Difference:
    """Compare outputs sample by sample.

    Floats may differ by a thousandth of the output's largest value (a hundredth, when they have 16 bits), times ``slack``,
    and by 1e-6 in any case.
    Integers and strings must be equal, but for a label whose two best scores are within that tolerance of each other.
    """
    if set(expected[0]) != set(actual[0]):
        return Difference(math.inf, f"its outputs are {sorted(actual[0])}, and the source gives {sorted(expected[0])}")
    largest = 0.0
    for name, value in expected[0].items():
        expected_values, actual_values = [feed[name] for feed in expected], [feed[name] for feed in actual]
        shapes = next(
            ((a.shape, b.shape) for a, b in zip(expected_values, actual_values, strict=True) if a.shape != b.shape), None
        )
        if shapes is not None:
            return Difference(math.inf, f"output {name} has shape {list(shapes[1])} instead of {list(shapes[0])}")
        if _is_float(value):
            gap, scale = _gap(expected_values, actual_values)
            relative = gap / scale if scale else gap
            largest = max(largest, relative)
            if gap > max(slack * _tolerance(value) * scale, _ROUNDING):
                return Difference(relative, f"output {name} differs by {_share(relative)}")
        elif flips := sum(
            _flips(name, a, b, feed, slack) for a, b, feed in zip(expected_values, actual_values, expected, strict=True)
        ):
            return Difference(largest, f"output {name} differs in {flips} of {sum(a.size for a in expected_values)} values")
    return Difference(largest)


def _share(relative: float) -> str:
    return f"{relative:.2g} of its largest value" if math.isfinite(relative) else "a NaN or an infinity"


def _is_float(value: Array) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _tolerance(value: Array) -> float:
    return 1e-2 if value.dtype.itemsize <= _HALF_BYTES else 1e-3


def _gap(expected: Sequence[Array], actual: Sequence[Array]) -> tuple[float, float]:
    """Return the largest absolute difference, and the largest finite value that was expected."""
    import numpy as np

    worst, scale = 0.0, 0.0
    for a, b in zip(expected, actual, strict=True):
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.where(same, 0.0, np.abs(x - y))
        if not np.isfinite(gap).all():
            return math.inf, scale
        worst = max(worst, float(gap.max(initial=0.0)))
        scale = max(scale, float(np.abs(x[np.isfinite(x)]).max(initial=0.0)))
    return worst, scale


def _flips(name: str, expected: Array, actual: Array, outputs: Feed, slack: float) -> int:
    """Count the values that differ and that no tie between scores explains."""
    differs = expected != actual
    for scores_name, scores in outputs.items():
        if scores_name != name and _is_float(scores) and scores.ndim and scores.shape[:-1] == expected.shape:
            differs = differs & ~_tied(scores, slack * _tolerance(scores))
    return int(differs.sum())


def _tied(scores: Array, tolerance: float) -> Array:
    """Return where the two largest scores of the last axis are as good as equal; shape of ``scores`` without that axis."""
    import numpy as np

    if scores.shape[-1] < 2:
        return np.zeros(scores.shape[:-1], dtype=bool)
    top = np.sort(scores.astype(np.float64), axis=-1)[..., -2:]
    tied: Array = top[..., 1] - top[..., 0] <= tolerance * float(np.abs(scores).max(initial=0.0))
    return tied
