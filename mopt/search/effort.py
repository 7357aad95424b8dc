"""How much a search tries: what is left out first is what seldom changes the answer."""

from __future__ import annotations

__all__ = ["EFFORTS", "Effort"]

import dataclasses

from mopt.model.signature import Signature
from mopt.recipe import EffortName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
    """What a search spends.

    Attributes:
        calibration: Most samples that ranges are taken from.
        evaluation: Most samples that quality is judged on.
        shortlist: Most candidates that are measured in depth, each of another graph or of other types.
        variants: Whether what differs from a fast candidate in its numbers alone is tried although that one holds.
        refined: Most candidates that mixed precision is tried for.
        refined_seconds: After which no new variant with mixed precision is tried.
        rounds: Most rounds of turns at a batch size; three times as many at the one that decides.
        size_seconds: After which no new round begins at a batch size.
        sizes_seconds: That all batch sizes but the first may take together.
        every_size: Whether each power of two is a batch size to measure, or from 2 on every other one.
        plateau: Batch sizes in a row that bring no more throughput, after which no larger one is measured.
    """

    calibration: int
    evaluation: int
    shortlist: int
    variants: bool
    refined: int
    refined_seconds: float
    rounds: int
    size_seconds: float
    sizes_seconds: float
    every_size: bool
    plateau: int

    def batch_sizes(self, signature: Signature, most: int) -> list[int]:
        """Batch sizes to measure: 1, the largest, and powers of two between them."""
        sizes = signature.batch_sizes(most)
        return sizes if self.every_size else sorted({*sizes[:1], *sizes[1::2], *sizes[-1:]})


_ALL = 1 << 30
EFFORTS: dict[EffortName, Effort] = {
    "quick": Effort(
        calibration=32, evaluation=256, shortlist=2, variants=False, refined=0, refined_seconds=0.0,
        rounds=5, size_seconds=3.0, sizes_seconds=2.0, every_size=False, plateau=1,
    ),
    "standard": Effort(
        calibration=_ALL, evaluation=_ALL, shortlist=3, variants=True, refined=2, refined_seconds=25.0,
        rounds=10, size_seconds=6.0, sizes_seconds=10.0, every_size=False, plateau=1,
    ),
    "thorough": Effort(
        calibration=_ALL, evaluation=_ALL, shortlist=5, variants=True, refined=4, refined_seconds=600.0,
        rounds=15, size_seconds=25.0, sizes_seconds=300.0, every_size=True, plateau=_ALL,
    ),
}  # fmt: skip
"""By name, the least first."""
