"""What a server answers, beside what an artifact's model answered."""

from __future__ import annotations

__all__ = ["difference", "matched"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy.typing as npt


def matched(answer: Feed, expected: Mapping[str, npt.NDArray[Any]]) -> Feed | None:
    """Return the outputs under the artifact's names; None when one is missing.

    A protocol that has no name for the only output gives it one of its own.
    """
    if answer.keys() >= expected.keys():
        return {name: answer[name] for name in expected}
    if len(answer) == len(expected) == 1:
        return dict(zip(expected, answer.values(), strict=True))
    return None


def difference(output: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest absolute difference; infinite where size, NaN or anything that is no float differs."""
    import numpy as np

    if output.size != expected.size:
        return float("inf")
    if expected.dtype.kind not in "fV":
        return 0.0 if bool((output.ravel() == expected.ravel()).all()) else float("inf")
    values, wanted = (array.astype(np.float64).ravel() for array in (output, expected))
    if bool((np.isnan(values) != np.isnan(wanted)).any()):
        return float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.where(values == wanted, 0.0, np.abs(values - wanted))
    return float(np.nanmax(apart, initial=0.0))
