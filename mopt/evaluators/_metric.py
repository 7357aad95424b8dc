"""What every metric is: a row of numbers for each sample, and one value for all rows."""

from __future__ import annotations

__all__ = ["Metric", "one_output", "stack_rows"]


import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import UserError
from mopt.model.signature import Feed
from mopt.system import plugins

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(abc.ABC):
    """How good outputs are. Its fields are all that it depends on.

    A row is kept for each sample instead of its outputs, so that memory does not grow with their size and any subset of
    the samples can be judged afterwards.

    Attributes:
        output: The output that is looked at; empty for the only one that fits.
    """

    higher_is_better: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    compares: ClassVar[bool] = False
    """Whether rows depend on the reference's outputs."""
    unit: ClassVar[str] = "share"
    """``share`` for a part of one, which may be written in percentage points; else the unit in words."""

    output: str = ""

    @property
    def assumption(self) -> str:
        """What has to be true for the metric to say something about a task; nothing where labels say it."""
        return "outputs that are so much alike serve as well" if self.compares else ""

    @property
    def name(self) -> str:
        """The name of the metric: its file's, or its entry point's."""
        return plugins.name_of(type(self))

    def key(self) -> dict[str, Any]:
        """Everything that rows depend on besides outputs and labels, as JSON data."""
        code = plugins.code_of(type(self))
        return {"metric": self.name, **dataclasses.asdict(self), **({"plugin": code} if code else {})}

    @abc.abstractmethod
    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return what has to be kept of one sample, shape [k], the same k for every sample.

        Args:
            outputs: Of the model that is judged, batch axis of length 1 included.
            label: A number, a string or a list; None without labels.
            reference: Outputs of the reference for the same sample.

        Raises:
            UserError: When outputs or labels are not what the metric is for.
        """

    def scores(self, rows: Rows) -> Rows | None:
        """Return one score for each sample, shape [n], whose mean is the value; None when the value is no mean."""
        return rows[:, 0]

    def decides(self, rows: Rows) -> bool:
        """Whether samples are right or wrong rather than more or less good; then few without a loss prove little."""
        return False

    def value(self, rows: Rows) -> float:
        """Return the metric over all rows, shape [n, k]; not a number where it is not defined."""
        scores = self.scores(rows)
        assert scores is not None, "a metric that is no mean has a value of its own"
        return float(scores.mean())

    def on(self, rows: Rows) -> Callable[[npt.NDArray[np.int64]], float]:
        """Return the value as a function of positions in ``rows``, for the bootstrap."""
        return lambda positions: self.value(rows[positions])

    def scale(self, rows: Rows) -> float:
        """Return what a relative tolerance is a part of, given the rows of the reference: the size of its value."""
        return abs(self.value(rows))


def one_output(
    outputs: Feed, output_name: str, fits: Callable[[npt.NDArray[Any]], bool], what: str, *, optional: bool = False
) -> npt.NDArray[Any] | None:
    """Return the output named ``output_name``, or the only one that fits.

    Args:
        outputs: Of one sample.
        output_name: The name; empty for the only one that fits.
        fits: Whether an output is what the metric looks for.
        what: What it looks for, in words.
        optional: Return None instead of raising when none fits.

    Raises:
        UserError: When there is no such output, or none or several fit.
    """
    if output_name:
        if output_name not in outputs:
            raise UserError(f"the model has no output {output_name}", plugins.nearest(output_name, outputs))
        return outputs[output_name]
    fitting = [name for name, value in outputs.items() if fits(value)]
    if len(fitting) == 1:
        return outputs[fitting[0]]
    if optional and not fitting:
        return None
    shapes = ", ".join(f"{name}: {value.dtype}{list(value.shape)}" for name, value in outputs.items())
    several = "several outputs are" if fitting else "no output is"
    raise UserError(f"{several} {what}: {shapes}", "name it in metric_options: output, or take the metric fidelity")


def stack_rows(rows: Sequence[Rows]) -> Rows:
    """Return rows as one array, shape [n, k]; shorter ones are filled up with zeros."""
    import numpy as np

    stacked = np.zeros((len(rows), max(map(len, rows), default=0)))
    for place, row in zip(stacked, rows, strict=True):
        place[: len(row)] = row
    return stacked
