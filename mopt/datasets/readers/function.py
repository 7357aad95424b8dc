"""Read what a function of the user yields: inputs, or inputs and a label."""

from __future__ import annotations

__all__ = ["FunctionReader"]

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.datasets.readers._base import Reader, plain_labels
from mopt.errors import UserError
from mopt.model.samples import Sample, Samples, write_samples
from mopt.system.arrays import EXTENDED, native_array
from mopt.system.user_code import guarded, is_function, load_function

if TYPE_CHECKING:
    import numpy.typing as npt

    from mopt.model.signature import Feed

_EVALUATION_DEFAULT = 2000
"""As for any other data: see ``mopt.datasets.split.EVALUATION_LIMIT``, which readers do not import."""


class FunctionReader(Reader):
    """Samples that ``file.py:function`` or ``package.module:function`` yields.

    The function is called without arguments and read up to the number of samples that the recipe asks for, so it may
    yield without end. What it yields goes to the scratch folder one by one.
    """

    accepts: ClassVar[str] = "file.py:function that yields (inputs, label) or inputs"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Whether it is written ``something:function``."""
        return is_function(path.name)

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the arrays, as the first sample has them."""
        return tuple(self.samples[0]) if len(self.samples) else ()

    @functools.cached_property
    def labels(self) -> list[Any] | None:
        """Second half of what was yielded."""
        labels = self.samples.labels
        return None if labels is None else plain_labels(labels, self._what)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return some arrays of one sample."""
        sample = self.samples[index]
        for name in columns:
            if name not in sample:
                raise UserError(
                    f"{self.name(index)} lacks {name}", f"yield the same names each time: {', '.join(self.columns)}"
                )
        return {name: sample[name] for name in columns}

    def name(self, index: int) -> str:
        """Function and position."""
        return f"{self._what}[{index}]"

    @functools.cached_property
    def samples(self) -> Samples:
        """Everything that was yielded, on disk."""
        folder = self.scratch / "yielded"
        folder.mkdir()
        return write_samples(folder, self._yielded())

    @property
    def _what(self) -> str:
        return self.path.name

    def _yielded(self) -> Iterator[Sample]:
        function = load_function(self.path.name, self.path.parent)
        limit = self.spec.calibration + (self.spec.evaluation or _EVALUATION_DEFAULT)
        with guarded(self._what, function):
            iterator = iter(function())
        for index in range(limit):
            with guarded(f"{self._what} (sample {index})", function):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            inputs, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
            yield Sample(self._arrays(inputs, index), self._label(label, index))

    def _arrays(self, inputs: Any, index: int) -> Feed:
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                input_names = ", ".join(spec.name for spec in self.inputs)
                raise UserError(f"{self.name(index)} is no dictionary", f"yield a dictionary with the inputs: {input_names}")
            inputs = {self.inputs[0].name: inputs}
        return {str(name): self._array(value, str(name), index) for name, value in inputs.items()}

    def _array(self, value: Any, name: str, index: int) -> npt.NDArray[Any]:
        try:
            array = native_array(value)
        except Exception as error:  # __array__ is somebody's own code, and torch raises RuntimeError
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"{self.name(index)}: {name} is no array: {reason}", "yield NumPy arrays") from error
        if array.dtype.kind in "OV" and array.dtype.isbuiltin != EXTENDED:
            raise UserError(f"{self.name(index)}: {name} is no array of numbers", "yield NumPy arrays")
        return array

    def _label(self, label: Any, index: int) -> Any:
        """Return a label as JSON data: a number of PyTorch, or an array in a list, is one as well."""
        import numpy as np

        if isinstance(label, np.ndarray | np.generic) or hasattr(label, "__array__"):
            return self._array(label, "the label", index).tolist()
        if isinstance(label, list | tuple):
            return [self._label(part, index) for part in label]
        return label
