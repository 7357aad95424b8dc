"""What goes into a model and what comes out of it."""

from __future__ import annotations

__all__ = ["BATCH", "KSERVE_DATATYPES", "Feed", "Signature", "TensorSpec", "dtype_kind", "listed", "raw_bytes"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mopt.system.schema import Schema

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


Feed = dict[str, "npt.NDArray[Any]"]
"""Arrays by tensor name; the batch axis is present, with length 1 for one sample."""
BATCH = "batch"
"""The name of the symbolic dimension along which requests are put together."""
KSERVE_DATATYPES = {
    "bool": "BOOL", "str": "BYTES", "bfloat16": "BF16", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
"""What KServe's protocol, version 2, calls the types of tensors."""


class TensorSpec(Schema):
    """Name, NumPy type name and shape of one input or output; a symbolic dimension is a string."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class Signature(Schema):
    """What goes into a model and what comes out of it.

    ``batch_axes`` gives the axis of each tensor along which samples are stacked; a tensor that is not in it is shared
    by all samples of a batch. It is found by experiment, not by name. ``batch_size`` is a number where the model has it
    fixed. Without batch axes each sample is all that the model takes at once.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_axes: dict[str, int] = {}
    batch_size: int | None = None

    @property
    def batches(self) -> bool:
        """Whether requests can be put together freely."""
        return bool(self.batch_axes) and self.batch_size is None

    @property
    def row_axes(self) -> dict[str, int]:
        """The axis that each tensor of a row of ``instances`` is without: none where a row is several samples at once."""
        return self.batch_axes if self.batch_size in (None, 1) else {}

    @property
    def separable(self) -> bool:
        """Whether each output of a batch can be told apart into those of its samples."""
        return self.batch_size in (None, 1) or all(spec.name in self.batch_axes for spec in self.outputs)

    def input(self, name: str) -> TensorSpec:
        """Return the input of this name."""
        return next(spec for spec in self.inputs if spec.name == name)

    def batch_sizes(self, most: int) -> list[int]:
        """Batch sizes to measure: 1, 2, 4 and so on up to ``most``, or the only one that the model takes."""
        if not self.batches:
            return [self.batch_size or 1]
        sizes = [1]
        while sizes[-1] * 2 <= most:
            sizes.append(sizes[-1] * 2)
        return sizes

    def as_given(self, feeds: Sequence[Feed]) -> Signature:
        """The same without the batch axes of a fixed size that the samples fill already, such as all views of one object.

        Nothing is left of a fixed batch size when no input is stacked: then each sample is all that the model takes at once.
        """
        if self.batch_size is None:
            return self
        full = {
            spec.name
            for spec in self.inputs
            if (axis := self.batch_axes.get(spec.name)) is not None and any(feed[spec.name].shape[axis] != 1 for feed in feeds)
        }
        axes = {name: axis for name, axis in self.batch_axes.items() if name not in full}
        if not any(spec.name in axes for spec in self.inputs):
            return self.model_copy(update={"batch_axes": {}, "batch_size": None})
        return self.model_copy(update={"batch_axes": axes})

    def company(self, feed: Feed) -> tuple[Any, ...]:
        """Return what samples must have in common to be put together: their shapes, and the inputs that all share."""
        shapes = [value.shape for value in feed.values()]
        return (*shapes, *(raw_bytes(value) for name, value in feed.items() if name not in self.batch_axes))

    def stack(self, feeds: Sequence[Feed]) -> Feed:
        """Put single samples together along their batch axes; a shared input is taken from the first."""
        import numpy as np

        if len(feeds) == 1:
            return dict(feeds[0])
        return {
            name: np.concatenate([feed[name] for feed in feeds], axis=self.batch_axes[name])
            if name in self.batch_axes
            else value
            for name, value in feeds[0].items()
        }

    def alone(self, feed: Feed) -> Feed:
        """Return a single sample as the model takes it: as many times over as a fixed batch has samples."""
        return self.stack([feed] * (self.batch_size or 1))

    def unstack(self, outputs: Feed, count: int) -> list[Feed]:
        """Take the outputs of a batch apart again, each with a batch axis of length 1."""
        if count == 1:
            return [outputs]
        return [
            {
                name: _slice(value, self.batch_axes[name], index) if name in self.batch_axes else value
                for name, value in outputs.items()
            }
            for index in range(count)
        ]


def _slice(value: npt.NDArray[Any], axis: int, index: int) -> npt.NDArray[Any]:
    piece: npt.NDArray[Any] = value[(slice(None),) * axis + (slice(index, index + 1),)]
    return piece


def dtype_kind(dtype: np.dtype[Any]) -> str:
    """Return the NumPy type name that a signature uses (``str`` for strings)."""
    return "str" if dtype.kind in "OUS" else dtype.name


def listed(array: npt.NDArray[Any]) -> Any:
    """Return lists, one number or one text, as JSON has them."""
    import numpy as np

    if array.dtype.kind in "OUS":
        texts = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in array.ravel()]
        return np.array(texts, dtype=object).reshape(array.shape).tolist()
    return (array.astype(np.float32) if array.dtype.name == "bfloat16" else array).tolist()


def raw_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return the bytes that Triton reads: row-major, each string behind its length in four bytes."""
    import numpy as np

    if array.dtype.kind not in "OUS":
        return np.ascontiguousarray(array).tobytes()
    items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)
