"""No part of the samples may fall below its own tolerance.

Each slice is tested for harm: that it is worse than its tolerance. With many slices some look worse by chance, so the
error over all of them together is held by Holm's step-down procedure (Holm 1979, "A simple sequentially rejective multiple
test procedure", Scandinavian Journal of Statistics 6): of m slices the worst is tested at alpha / m, the next at
alpha / (m - 1), and so on until one is not rejected.

That all of them are good enough needs no correction: each has to be shown by itself (intersection-union test, Berger 1982).
A slice is small, though, and rarely has the samples for it. So what cannot be shown either way is said, and whether it
counts is the user's choice.
"""

from __future__ import annotations

__all__ = ["Slice", "SliceQuality", "noninferiority_by_slice"]

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mopt.errors import CandidateRejectedError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.records.quality import Quality

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of the samples.

    Attributes:
        name: Such as ``language=de``.
        positions: Of its samples.
        tolerance: What it may lose.
    """

    name: str
    positions: tuple[int, ...]
    tolerance: Tolerance


@dataclasses.dataclass(frozen=True)
class SliceQuality:
    """What became of a slice.

    Attributes:
        part: Which.
        quality: None where the metric has no value on it.
        confidence: That of the bounds in ``quality``, after the correction.
        note: Why there is no quality.
    """

    part: Slice
    quality: Quality | None
    confidence: float
    note: str = ""


def noninferiority_by_slice(
    metric: Metric,
    candidate: Rows,
    baseline: Rows,
    parts: Sequence[Slice],
    *,
    confidence: float,
    groups: Sequence[str] | None = None,
) -> list[SliceQuality]:
    """Judge every slice; see the module for the procedure.

    Args:
        metric: That made the rows.
        candidate: Shape [n, k], in the order of the samples.
        baseline: The same.
        parts: The slices.
        confidence: Over all slices together, one-sided.
        groups: The group of each sample, or None.
    """
    alpha = 1 - confidence
    judged: dict[str, SliceQuality] = {}
    undefined: dict[str, SliceQuality] = {}
    open_parts = list(parts)
    while open_parts:
        level = 1 - alpha / len(open_parts)
        tested: Mapping[str, SliceQuality] = {
            part.name: _noninferiority(metric, candidate, baseline, part, level, groups) for part in open_parts
        }
        undefined |= {name: slice_quality for name, slice_quality in tested.items() if slice_quality.quality is None}
        judged |= {name: slice_quality for name, slice_quality in tested.items() if slice_quality.quality is not None}
        harmed = {
            name
            for name, slice_quality in tested.items()
            if slice_quality.quality is not None and slice_quality.quality.verdict == "fail"
        }
        left = [part for part in open_parts if part.name not in harmed and part.name not in undefined]
        if len(left) == len(open_parts):
            break
        open_parts = left
    return [(judged | undefined)[part.name] for part in parts]


def _noninferiority(
    metric: Metric, candidate: Rows, baseline: Rows, part: Slice, confidence: float, groups: Sequence[str] | None
) -> SliceQuality:
    positions = list(part.positions)
    own_groups = None if groups is None else [groups[index] for index in positions]
    try:
        quality = noninferiority_test(
            metric, candidate[positions], baseline[positions], part.tolerance, confidence, groups=own_groups, fail_when="proven"
        )
    except (UserError, CandidateRejectedError) as error:
        return SliceQuality(part, None, confidence, error.message)
    return SliceQuality(part, quality, confidence)
