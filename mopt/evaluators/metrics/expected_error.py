"""Error of predicted numbers that is to be expected, without labels."""

from __future__ import annotations

__all__ = ["ExpectedError"]

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import pydantic

from mopt.errors import UserError
from mopt.evaluators._metric import one_output
from mopt.evaluators.label_free import LabelFreeMetric, Losses
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

_SHARE_OF_SPREAD = 0.1
"""Error of a reference of which nothing is known, over the spread of its outputs: that of a model with an R2 of 0.99."""
_UNSEEN = 2.0
"""How many times the largest squared distance that was seen another sample may have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpectedError(LabelFreeMetric):
    """Root mean square error if distance from the reference and error of the reference go together by chance.

    ``sqrt(error ** 2 + distance ** 2)``. Certified by the triangle inequality: the error changes by no more than the root mean
    square distance.

    Attributes:
        known_error: Root mean square error of the reference in the unit of the output; without it, a tenth of the spread of the
            reference's outputs.
    """

    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "unit of the output"

    known_error: Annotated[float | None, pydantic.Field(gt=0)] = None
    spread: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """Standard deviation of the reference's outputs, which is found with them."""

    @property
    def assumption(self) -> str:
        """What the estimate takes for granted."""
        error = "" if self.known_error is not None else ", which is a tenth of the spread of its outputs"
        return f"the distance from the reference has nothing to do with the reference's error{error}"

    def fit(self, answers: Iterable[Feed]) -> Self:
        """Find the spread of the reference's outputs."""
        import numpy as np

        count, total, squares = 0, 0.0, 0.0
        for answer in answers:
            value = self._numbers(answer).astype(np.float64)
            count, total, squares = count + value.size, total + float(value.sum()), squares + float((value**2).sum())
        mean = total / max(count, 1)
        return dataclasses.replace(self, spread=math.sqrt(max(0.0, squares / max(count, 1) - mean**2)))

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return the mean squared distance, shape [1]; the whole spread for an answer of another shape."""
        import numpy as np

        truth = self._numbers(reference)
        answer = outputs[next(name for name, value in reference.items() if value is truth)]
        if answer.shape != truth.shape:
            return np.array([max(self.spread, 1.0) ** 2])
        return np.array([float(((answer.astype(np.float64) - truth.astype(np.float64)) ** 2).mean()) if truth.size else 0.0])

    def _numbers(self, outputs: Feed) -> npt.NDArray[Any]:
        value = one_output(outputs, self.output, lambda value: value.dtype.kind == "f", "floating-point numbers")
        assert value is not None
        if value.dtype.kind != "f":
            raise UserError(f"the output {self.output} has no floating-point numbers", "name another output, or take agreement")
        return value

    def scores(self, rows: Rows) -> None:
        """Return None: a root is no mean over samples."""

    def value(self, rows: Rows) -> float:
        """Return the error that is expected, in the unit of the output."""
        return math.hypot(self._error, math.sqrt(float(rows[:, 0].mean())))

    def scale(self, rows: Rows) -> float:
        """Return the error of the reference."""
        return self._error

    @property
    def _error(self) -> float:
        return self.known_error if self.known_error is not None else _SHARE_OF_SPREAD * self.spread

    def certified(self, rows: Rows) -> Losses:
        """The root mean square distance."""
        return Losses(rows[:, 0], _UNSEEN * float(rows[:, 0].max(initial=0.0)), math.sqrt)

    def estimated(self, rows: Rows) -> Losses:
        """What such a distance adds to the error where both are independent."""
        error, most = self._error, _UNSEEN * float(rows[:, 0].max(initial=0.0))
        return Losses(rows[:, 0], most, lambda squared: math.hypot(error, math.sqrt(squared)) - error)
