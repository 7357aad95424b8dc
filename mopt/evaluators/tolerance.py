"""How much may be lost."""

from __future__ import annotations

__all__ = ["Tolerance"]

import dataclasses
import math
import re
from typing import Literal, Self

from mopt.errors import UserError

_FORM = re.compile(r"(?P<number>[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>%|pp)?", re.IGNORECASE)
_HINT = "write 1% (of the reference's score), 0.5pp (percentage points) or 0.005 (in units of the metric)"


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What a candidate may be worse than the reference.

    Attributes:
        kind: ``relative`` to the reference's value, in percentage ``points``, or ``absolute`` in units of the metric.
        amount: A share for ``relative`` and ``points``, else in units of the metric; never negative.
    """

    kind: Literal["relative", "points", "absolute"]
    amount: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1%``, ``0.5pp``, ``0.005`` or ``0``.

        With 0, a candidate that is right and wrong on the same samples as the reference is never worse, but it is never
        proven not to be either: that takes one that is better.

        Raises:
            UserError: When it is none of these, or more than everything.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            negative = text.strip().startswith("-")
            raise UserError(f"the tolerance {text} is {'negative' if negative else 'no amount'}", _HINT)
        number, unit = float(match["number"]), (match["unit"] or "").lower()
        if not math.isfinite(number) or (unit and number > 100):
            raise UserError(f"the tolerance {text} is more than everything", _HINT)
        if not unit:
            return cls("absolute", number)
        return cls("relative" if unit == "%" else "points", number / 100)

    def allowed(self, scale: float, unit: str) -> float:
        """Return the most negative difference that is allowed, in units of the metric.

        Args:
            scale: What a relative tolerance is a part of.
            unit: Of the metric.

        Raises:
            UserError: When it is in percentage points and the metric is no share.
        """
        if self.kind == "points" and unit not in ("", "share"):
            raise UserError(f"a tolerance in pp is for shares, and the metric is in {unit}", "write 1% or a plain number")
        return -self.amount * (scale if self.kind == "relative" else 1.0) + 0.0
