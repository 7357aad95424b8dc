"""How much a cost may grow: latency, memory, loading, size."""

from __future__ import annotations

__all__ = ["COSTS", "Limit", "parse_assignment"]

import dataclasses
import math
import re
from typing import Self

from mopt.errors import UserError
from mopt.system.plugins import nearest

COSTS = {
    "p50": "ms",
    "p90": "ms",
    "p99": "ms",
    "throughput": "/s",
    "memory": "bytes",
    "load": "ms",
    "first": "ms",
    "size": "bytes",
}
"""What can be limited besides metrics, with its unit."""
_SCALES = {
    "ms": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "bytes": {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
    "/s": {"/s": 1.0},
}
_FORM = re.compile(r"(?P<sign>[+-]?)\s*(?P<number>[0-9]*\.?[0-9]+)\s*(?P<unit>[A-Za-z%/]*)")


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a cost may grow by; negative when it must shrink.

    Attributes:
        text: As it was written.
        relative: Whether ``amount`` is a share of the baseline's.
        amount: A share, or in the unit of the cost.
    """

    text: str
    relative: bool
    amount: float

    @classmethod
    def parse(cls, text: str, cost: str) -> Self:
        """Read ``+5%``, ``5%``, ``0``, ``+2ms`` or ``+50MB``. A throughput that may fall is written ``-5%``.

        Raises:
            UserError: When it is none of these.
        """
        unit = COSTS[cost]
        example = {"ms": "+5% or +2ms", "bytes": "+5% or +50MB", "/s": "-5%"}[unit]
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise UserError(f"the limit {cost}: {text} is no amount", f"write {example}")
        number = float(match["number"]) * (-1 if match["sign"] == "-" else 1)
        if unit == "/s":  # less is worse, and what is written is the change
            number = -number if match["sign"] else abs(number)
        if not math.isfinite(number):
            raise UserError(f"the limit {cost}: {text} is no amount", f"write {example}")
        if match["unit"] == "%":
            return cls(text.strip(), relative=True, amount=number / 100)
        scales = _SCALES[unit]
        if number == 0 and not match["unit"]:
            return cls(text.strip(), relative=True, amount=0.0)
        if match["unit"].lower() not in scales:
            raise UserError(f"the limit {cost}: {text} has no unit of {cost}", f"write {example}")
        return cls(text.strip(), relative=False, amount=number * scales[match["unit"].lower()])

    def allowed(self, baseline: float) -> float:
        """Return the largest growth as a share of the baseline."""
        return self.amount if self.relative else self.amount / baseline if baseline else math.inf


def parse_assignment(text: str, choices: list[str]) -> tuple[str, str]:
    """Split ``p99: +5%`` or ``p99=+5%`` into what is limited and by how much; a name such as ``mine.py:f`` has a mark in it.

    Raises:
        UserError: When it is neither, or nothing of that name can be limited.
    """
    name, mark, amount = re.match(r"(?:(.*)([:=]))?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    name, amount = (name or text).strip(), amount.strip()
    if not mark or not amount:
        raise UserError(f"the limit {text} names no amount", "write NAME: AMOUNT, such as p99: +5% or accuracy: -0.5pp")
    if name not in choices:
        raise UserError(f"nothing is called {name} that can be limited", nearest(name, choices))
    return name, amount
