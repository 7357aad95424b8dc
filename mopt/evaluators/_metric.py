"""What every metric is: a row of numbers for each sample, and one value for all rows."""

from __future__ import annotations

__all__ = ["Metric", "load_metric", "one_output", "stack_rows"]

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import UserError
from mopt.model.samples import Samples
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.system import plugins
from mopt.system.user_code import is_function

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

AUTO = "auto"
"""The name that leaves the choice of the metric to the labels and the model."""


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


def load_metric(
    spec: str,
    samples: Samples,
    signature: Signature,
    options: Mapping[str, Any] | None = None,
    *,
    base: Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Metric:
    """Return the metric that a recipe names.

    Args:
        spec: A name, ``file.py:function`` or ``package.module:function``, or ``auto``: accuracy when the labels are
            classes and one output tells them, else fidelity.
        samples: What it will be applied to.
        signature: Of the model.
        options: Fields of the metric.
        base: Folder that the path of a function starts from.
        metadata: Of the model; a recogniser carries its characters there.

    Raises:
        UserError: When there is no such metric or option, or when it needs labels and there are none.
    """
    labels = samples.labels
    name = _choose(labels, signature) if spec == AUTO else spec
    options = dict(options or {})
    if is_function(name):
        from mopt.evaluators.metrics._function import function_metric

        return function_metric(name, base or Path(), options, {spec.name for spec in signature.outputs})
    metric_class: type[Metric] = plugins.load("metrics", name)
    if metric_class.needs_labels and labels is None:
        raise UserError(
            f"the metric {name} needs labels and the data has none", "say which column with label, or take fidelity"
        )
    if metadata and "charset" in _fields(metric_class) and "character" in metadata:
        options.setdefault("charset", metadata["character"].splitlines())
    metric = _make(metric_class, name, options)
    output_names = [spec.name for spec in signature.outputs]
    if metric.output and metric.output not in output_names:
        raise UserError(f"the model has no output {metric.output}", plugins.nearest(metric.output, output_names))
    return metric


def _fields(metric_class: type[Metric]) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(metric_class)}


def _make(metric_class: type[Metric], name: str, options: Mapping[str, Any]) -> Metric:
    import pydantic

    fields = _fields(metric_class)
    for option in options:
        if option not in fields:
            raise UserError(f"the metric {name} has no option {option}", plugins.nearest(option, fields))
    try:
        return pydantic.TypeAdapter(metric_class).validate_python(dict(options))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the metric {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            "mend metric_options in the recipe",
        ) from None


def _choose(labels: list[Any] | None, signature: Signature) -> str:
    """Return accuracy when labels and outputs leave no doubt, else fidelity."""
    if not labels:
        return "fidelity"
    outputs = signature.outputs
    if all(isinstance(label, str) for label in labels):
        class_outputs = [spec for spec in outputs if spec.dtype == "str" and _tells_a_class(spec)]
        return "accuracy" if len(class_outputs) == 1 else "fidelity"
    if not all(isinstance(label, int) for label in labels):
        return "fidelity"
    class_outputs = [spec for spec in outputs if spec.dtype in ("int32", "int64") and _tells_a_class(spec)]
    score_outputs = [spec for spec in outputs if _scores_classes(spec, min(labels), max(labels))]
    return "accuracy" if len(class_outputs or score_outputs) == 1 else "fidelity"


def _tells_a_class(spec: TensorSpec) -> bool:
    return len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1)


def _scores_classes(spec: TensorSpec, lowest: int, highest: int) -> bool:
    if not spec.dtype.startswith("float") or len(spec.shape) != 2 or lowest < 0:
        return False
    return isinstance(spec.shape[1], str) or spec.shape[1] > max(highest, 1)


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
