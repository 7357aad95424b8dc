"""A metric that the user wrote: ``file.py:function`` or ``package.module:function``."""

from __future__ import annotations

__all__ = ["FunctionMetric", "function_metric"]

import dataclasses
import io
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import UserError
from mopt.evaluators._metric import Metric
from mopt.model.signature import Feed
from mopt.system.digests import file_digest
from mopt.system.plugins import nearest
from mopt.system.user_code import guarded, load_function, source_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

_LABEL = "label"
_OUTPUT = "output."


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionMetric(Metric):
    """Calls ``function(outputs, labels)`` with a list of dictionaries of arrays and a list of labels.

    It returns one number for each sample, whose mean is the metric, or one number for all. It wants all outputs at
    once, so here they are kept: a row is the bytes of one sample's outputs and label.

    Attributes:
        function: Where it is, for people.
        digest: Of the file that it is in.
    """

    needs_labels: ClassVar[bool] = False
    unit: ClassVar[str] = ""

    function: str
    call: Callable[[list[Feed], list[Any]], Any] = dataclasses.field(repr=False, compare=False)
    digest: str = ""

    @property
    def name(self) -> str:
        """What the recipe calls it."""
        return self.function

    def key(self) -> dict[str, Any]:
        """The file and its digest."""
        return {"metric": self.function, "output": self.output, "digest": self.digest}

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Pack outputs and label, shape [bytes / 8]."""
        import numpy as np

        kept = {name: outputs[name] for name in ([self.output] if self.output else outputs)}
        arrays = {_OUTPUT + name: _portable(value) for name, value in kept.items()}
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **{_LABEL: np.array(json.dumps(label))}, **arrays)
        data = stream.getvalue()
        size = len(data).to_bytes(8, "little")
        return np.frombuffer(size + data + bytes(-len(data) % 8), dtype=np.float64)

    def scores(self, rows: Rows) -> Rows | None:
        """Return what the function returns for each sample, or None when it returns one number for all."""
        return self._scores(*_unpack(rows))

    def decides(self, rows: Rows) -> bool:
        """Yes, unless the scores of the samples show otherwise."""
        scores = self.scores(rows)
        return scores is None or bool(((scores == 0) | (scores == 1)).all())

    def value(self, rows: Rows) -> float:
        """Return what the function returns, or the mean of it."""
        return self._value(*_unpack(rows))

    def on(self, rows: Rows) -> Callable[[npt.NDArray[np.int64]], float]:
        """Unpack once, then call the function on any subset."""
        outputs, labels = _unpack(rows)
        return lambda positions: self._value([outputs[i] for i in positions], [labels[i] for i in positions])

    def _value(self, outputs: list[Feed], labels: list[Any]) -> float:
        return float(self._call(outputs, labels).mean())

    def _scores(self, outputs: list[Feed], labels: list[Any]) -> Rows | None:
        scores = self._call(outputs, labels)
        return None if scores.ndim == 0 else scores

    def _call(self, outputs: list[Feed], labels: list[Any]) -> Rows:
        import numpy as np

        with guarded(f"the metric {self.function}", self.call):
            returned = self.call(outputs, labels)
        try:
            scores = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError):
            scores = np.empty((0, 0))
        if scores.ndim > 1 or (scores.ndim == 1 and scores.size != len(labels)):
            raise UserError(
                f"the metric {self.function} returned {type(returned).__name__}, no number and not one for each sample",
                "return a float, or an array as long as the list of labels",
            )
        return scores


class LossFunctionMetric(FunctionMetric):
    """The same, when less is better."""

    higher_is_better: ClassVar[bool] = False


def function_metric(text: str, base: Path, options: Mapping[str, Any], outputs: Collection[str]) -> FunctionMetric:
    """Load the user's function.

    Less is better when the option or the function's own attribute ``higher_is_better`` is false.

    Raises:
        UserError: When there is no such function or option.
    """
    option_names = ("higher_is_better", "output")
    for option in options:
        if option not in option_names:
            raise UserError(f"a metric of your own has no option {option}", nearest(option, option_names))
    output = options.get("output", "")
    if output and output not in outputs:
        raise UserError(f"the model has no output {output}", nearest(output, outputs))
    function = load_function(text, base)
    higher = options.get("higher_is_better", getattr(function, "higher_is_better", True))
    file = source_file(function)
    return (FunctionMetric if higher else LossFunctionMetric)(
        function=Path(text).name, call=function, output=output, digest=file_digest(file) if file else ""
    )


def _portable(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return value.astype("U") if value.dtype.kind == "O" else value


def _unpack(rows: Rows) -> tuple[list[Feed], list[Any]]:
    import numpy as np

    outputs: list[Feed] = []
    labels: list[Any] = []
    for row in np.ascontiguousarray(rows):
        data = row.tobytes()
        size = int.from_bytes(data[:8], "little")
        with np.load(io.BytesIO(data[8 : 8 + size]), allow_pickle=False) as arrays:
            labels.append(json.loads(str(arrays[_LABEL])))
            outputs.append({name.removeprefix(_OUTPUT): arrays[name] for name in arrays.files if name != _LABEL})
    return outputs, labels
