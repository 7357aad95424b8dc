"""Fit what a reader found to what the model takes: names, shapes and types, without changing a value."""

from __future__ import annotations

__all__ = ["Binding", "ShapeError", "bind_array", "first_cells", "named"]

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.datasets.preprocess import Tokenizer, image_array
from mopt.datasets.readers._base import Reader
from mopt.datasets.spec import DataSpec
from mopt.errors import UserError
from mopt.model.signature import BATCH, Feed, Signature, TensorSpec, dtype_kind
from mopt.system.arrays import native_array
from mopt.system.plugins import nearest

if TYPE_CHECKING:
    import numpy.typing as npt


_MOST_NAMED = 5


class ShapeError(UserError):
    """A sample has another shape than the model takes.

    Attributes:
        axes: Fixed axes of the model that some sample does not fit: input -> axis -> what the length may be called.
    """

    axes: Mapping[str, Mapping[int, str]] = {}


@dataclasses.dataclass(frozen=True)
class Binding:
    """Which columns make which input. Made once, before any sample is read.

    Attributes:
        sources: Input name -> the column, or the columns that are put side by side.
        text: Columns that are tokenized together.
        image: The column that holds a picture, and the input that it makes.
    """

    reader: Reader
    signature: Signature
    spec: DataSpec
    base: Path
    sources: dict[str, str | tuple[str, ...]]
    text: tuple[str, ...] = ()
    image: tuple[str, str] | None = None

    @classmethod
    def of(cls, reader: Reader, signature: Signature, spec: DataSpec, base: Path) -> Binding:
        """Match names.

        Raises:
            UserError: At an input without a column, or a column that does not exist; the nearest one is named.
        """
        _check_inputs(spec, signature)
        text, image = _text_columns(reader, spec), _image_column(reader, signature, spec)
        made = set(_token_names(spec, signature)) | ({image[1]} if image else set())
        sources = {
            tensor.name: _source(tensor, reader, signature, spec) for tensor in signature.inputs if tensor.name not in made
        }
        return cls(reader, signature, spec, base, sources, text, image)

    def feed(self, index: int, *, finite: bool = True) -> Feed:
        """Read one sample and make the model's inputs of it, batch axis included.

        Raises:
            UserError: When it does not fit, or has a NaN or an infinity and must be ``finite``; sample and input are named.
        """
        values, name = self._values(index), self.reader.name(index)
        feed = {
            tensor.name: bind_array(values[tensor.name], tensor, self.signature, name, finite=finite)
            for tensor in self.signature.inputs
        }
        self._check_alike(feed, name)
        return feed

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each input of one sample, batch axis included, whether the model takes it or not.

        Raises:
            UserError: When it is no array.
        """
        values, name = self._values(index), self.reader.name(index)
        shapes = {}
        for tensor in self.signature.inputs:
            shape = _array(values[tensor.name], tensor, name).shape
            axis = self.signature.batch_axes.get(tensor.name)
            lacks_batch = axis is not None and len(shape) == len(tensor.shape) - 1
            shapes[tensor.name] = (*shape[:axis], 1, *shape[axis:]) if lacks_batch else shape
        return shapes

    def _values(self, index: int) -> dict[str, Any]:
        import numpy as np

        name = self.reader.name(index)
        cells = self.reader.read(index, self._columns)
        values: dict[str, Any] = {
            target: cells[source] if isinstance(source, str) else np.asarray([cells[column] for column in source])
            for target, source in self.sources.items()
        }
        if self.image is not None and self.spec.image is not None:
            column, target = self.image
            values[target] = image_array(cells[column], self.spec.image, name)
        if self.text:
            values |= self._tokenizer.encode([_string(cells[column], name, column) for column in self.text])
        return values

    @property
    def assumed(self) -> list[str]:
        """Which inputs are made of what nobody has named, for people."""
        return [
            f"{name} is {named(source)}" + ("" if isinstance(source, str) else ", in this order")
            for name, source in self.sources.items()
            if source != name and name not in self.spec.columns
        ]

    def _check_alike(self, feed: Feed, name: str) -> None:
        """Refuse to mix single samples of a fixed batch with whole inputs."""
        if self.signature.batch_size in (None, 1):
            return
        for tensor, axis in self.signature.batch_axes.items():
            if tensor not in feed:
                continue
            length = feed[tensor].shape[axis]
            if length != (usual := self._lengths.setdefault(tensor, length)):
                raise UserError(
                    f"{name}: {tensor} has {length} along axis {axis}, and the first sample has {usual}",
                    "give each sample alone, or all that the model takes at once, but not both",
                )

    @functools.cached_property
    def _lengths(self) -> dict[str, int]:
        """Length along the batch axis by input, as the first sample has it."""
        return {}

    @functools.cached_property
    def _columns(self) -> tuple[str, ...]:
        listed: list[str] = []
        for source in self.sources.values():
            listed += [source] if isinstance(source, str) else source
        listed += [*self.text, *(self.image[:1] if self.image else ())]
        return tuple(dict.fromkeys(listed))

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        assert self.spec.text is not None
        return Tokenizer(self.base / self.spec.text.tokenizer, self.spec.text, self._texts())

    def _texts(self) -> Iterator[list[str]]:
        for index in range(len(self.reader)):
            cells = self.reader.read(index, self.text)
            yield [_string(cells[column], self.reader.name(index), column) for column in self.text]


def named(source: str | Sequence[str]) -> str:
    """Return the columns that an input is made of in a few words."""
    columns = [source] if isinstance(source, str) else list(source)
    if len(columns) > _MOST_NAMED:
        return f"{', '.join(columns[:_MOST_NAMED])}, ... ({len(columns)} columns)"
    return ", ".join(columns)


def first_cells(reader: Reader, columns: Sequence[str]) -> dict[str, Any]:
    """Return what the first sample has in some columns; one that is empty there, or cannot be read, is left out."""
    cells: dict[str, Any] = {}
    for column in columns if len(reader) else ():
        with contextlib.suppress(UserError):
            cells |= reader.read(0, (column,))
    return cells


def _check_inputs(spec: DataSpec, signature: Signature) -> None:
    input_names = [tensor.name for tensor in signature.inputs]
    for name in spec.columns:
        if name not in input_names:
            raise UserError(f"the model has no input {name}, which columns names", nearest(name, input_names))


def _token_names(spec: DataSpec, signature: Signature) -> tuple[str, ...]:
    if spec.text is None:
        return ()
    if not spec.text.tokenizer:
        raise UserError("[data.text] names no tokenizer, and the model brings none", 'say it: tokenizer = "tokenizer.json"')
    input_names = [tensor.name for tensor in signature.inputs]
    if spec.text.input_ids not in input_names:
        raise UserError(
            f"the model has no input {spec.text.input_ids} for the tokens", nearest(spec.text.input_ids, input_names)
        )
    return (spec.text.input_ids, spec.text.attention_mask, spec.text.token_type_ids)


def _text_columns(reader: Reader, spec: DataSpec) -> tuple[str, ...]:
    if spec.text is None:
        return ()
    for column in spec.text.columns:
        if column not in reader.columns:
            raise UserError(f"{reader.path.name} has no column {column}", nearest(column, reader.columns))
    if spec.text.columns:
        return spec.text.columns
    cells = first_cells(reader, _free_columns(reader, spec))
    text_columns = [column for column, cell in cells.items() if _is_string(cell)]
    if len(text_columns) != 1:
        raise UserError(
            f"{reader.path.name} has {len(text_columns)} text columns: {', '.join(text_columns) or 'none'}",
            'name the one to use: columns = ["..."] in [data.text]; and the labels: --label',
        )
    return (text_columns[0],)


def _image_column(reader: Reader, signature: Signature, spec: DataSpec) -> tuple[str, str] | None:
    if spec.image is None:
        return None
    column = spec.image.column
    if column and column not in reader.columns:
        raise UserError(f"{reader.path.name} has no column {column}", nearest(column, reader.columns))
    mapped = {source: target for target, source in spec.columns.items() if isinstance(source, str)}
    inputs = [tensor.name for tensor in signature.inputs]
    if not column:
        mapped_columns = [name for name in reader.columns if name in mapped or name in inputs]
        candidates = mapped_columns if len(mapped_columns) == 1 else list(_free_columns(reader, spec))
        if len(candidates) != 1:
            raise UserError(
                f"which column holds the picture: {', '.join(candidates)}", 'say it: column = "..." in [data.image]'
            )
        column = candidates[0]
    target = mapped.get(column, column if column in inputs else inputs[0] if len(inputs) == 1 else "")
    if not target:
        raise UserError(f"which input takes the picture {column}: {', '.join(inputs)}", "say it in [data.columns]")
    return column, target


def _source(tensor: TensorSpec, reader: Reader, signature: Signature, spec: DataSpec) -> str | tuple[str, ...]:
    source = spec.columns.get(tensor.name)
    for column in (source,) if isinstance(source, str) else source or ():
        if column not in reader.columns:
            raise UserError(f"{reader.path.name} has no column {column}", nearest(column, reader.columns))
    if source:
        return source
    if tensor.name in reader.columns:
        return tensor.name
    free = _free_columns(reader, spec)
    if (vector := _side_by_side(tensor, free, signature)) is not None:
        return vector
    if len(signature.inputs) == len(free) == 1:
        return free[0]
    raise UserError(
        f"{reader.path.name} has no {tensor}; it has: {', '.join(reader.columns[:12]) or 'nothing'}",
        _hint_without(tensor, reader, free),
    )


def _hint_without(tensor: TensorSpec, reader: Reader, free: tuple[str, ...]) -> str:
    """What to do about an input without a column; text is never one for token numbers."""
    if tensor.dtype in ("int32", "int64") and any(map(_is_string, first_cells(reader, free).values())):
        return 'for text that has to be tokenized: [data.text] with tokenizer = "tokenizer.json" in the recipe'
    close = nearest(tensor.name, reader.columns) if reader.columns else "it has no columns"
    return f'{close}; columns = {{ "{tensor.name}" = "..." }} in [data] says which one it is'


def _free_columns(reader: Reader, spec: DataSpec) -> tuple[str, ...]:
    """Return the columns that the user gave no other meaning."""
    return tuple(column for column in reader.columns if column not in (spec.group, *spec.slices))


def _side_by_side(tensor: TensorSpec, free: tuple[str, ...], signature: Signature) -> tuple[str, ...] | None:
    """Return the columns of a table that make the one vector that the model takes, or None."""
    if len(signature.inputs) != 1 or len(tensor.shape) != 2 or tensor.shape[1] != len(free) or tensor.shape[1] == 1:
        return None
    return free


def _string(cell: Any, name: str, column: str) -> str:
    if not _is_string(cell):
        raise UserError(f"{name}: {column} is {type(cell).__name__}, not text", "name the text column in [data.text]")
    return str(cell)


def _is_string(cell: Any) -> bool:
    import numpy as np

    return isinstance(cell, str) or (isinstance(cell, np.ndarray) and cell.ndim == 0 and isinstance(cell.item(), str))


def bind_array(value: Any, tensor: TensorSpec, signature: Signature, name: str, *, finite: bool = True) -> npt.NDArray[Any]:
    """Return ``value`` as the array that the model takes.

    A missing batch axis is added with length 1. An array that already is all that the model takes at once stays as it is,
    whatever its axes mean. A type is changed only when every value survives it.

    Raises:
        UserError: When it does not fit, or has a NaN or an infinity in it and must be ``finite``.
    """
    array = _array(value, tensor, name, finite=finite)
    array = _shaped(array, tensor, signature.batch_axes.get(tensor.name), name)
    return _typed(array, tensor, name)


def _array(value: Any, tensor: TensorSpec, name: str, *, finite: bool = True) -> npt.NDArray[Any]:
    import numpy as np

    if isinstance(value, Path):
        raise UserError(
            f"{name} is a picture, and nothing says how to make an array of it",
            "add [data.image] with resize, mean, std and layout to the recipe",
        )
    try:
        array = native_array(value)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biufUS" and array.dtype.name != tensor.dtype:
        raise UserError(f"{name}: {tensor.name} is no array of {tensor.dtype}", "give numbers, all rows of the same length")
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "an infinity"
        raise UserError(f"{name}: {tensor.name} has {what} in it", "leave such samples out, or fill the gaps")
    return array


def _shaped(array: npt.NDArray[Any], tensor: TensorSpec, axis: int | None, name: str) -> npt.NDArray[Any]:
    shaped = next((layout for layout in _layouts(array, tensor, axis) if _fits(layout.shape, tensor, axis)), None)
    if shaped is None:
        several = array.ndim == len(tensor.shape) and axis is not None and array.shape[axis] != 1
        raise ShapeError(
            f"{name}: shape {list(array.shape)} does not fit the input {tensor}",
            "give one sample at a time" if several else "resize, crop, pad or reshape the samples to what the model takes",
        )
    return shaped


def _layouts(array: npt.NDArray[Any], tensor: TensorSpec, axis: int | None) -> Iterator[npt.NDArray[Any]]:
    """Yield the ways to take an array: as it is, as one number, with its batch axis added, with another axis added.

    None of anything, such as no box at all, is a sample only with all of its axes.
    """
    import numpy as np

    rank = len(tensor.shape)
    if array.ndim == rank:
        yield array
    if array.size == 1 and array.ndim < rank:
        yield array.reshape((1,) * rank)
    if array.ndim == rank - 1 and array.size:
        free = [index for index, size in enumerate(tensor.shape) if index != axis and (size == 1 or isinstance(size, str))]
        for place in [*([] if axis is None else [axis]), *free]:
            yield np.expand_dims(array, place)


def _fits(shape: Sequence[int], tensor: TensorSpec, axis: int | None) -> bool:
    """Whether an array of that shape is one sample, or all that the model takes at once."""
    if len(shape) != len(tensor.shape):
        return False
    return all(
        length == size or (length == 1 and (index == axis or size == BATCH)) or (isinstance(size, str) and size != BATCH)
        for index, (size, length) in enumerate(zip(tensor.shape, shape, strict=True))
    )


def _typed(array: npt.NDArray[Any], tensor: TensorSpec, name: str) -> npt.NDArray[Any]:
    import numpy as np

    if dtype_kind(array.dtype) == tensor.dtype:
        return array.astype("U") if tensor.dtype == "str" else array
    try:
        target = np.dtype(tensor.dtype)
    except TypeError:
        raise UserError(f"the input {tensor} has a type that samples cannot have", "give it a float32 input") from None
    if "str" in (tensor.dtype, dtype_kind(array.dtype)) or (array.dtype.kind == "f" and target.kind in "biu"):
        text = dtype_kind(array.dtype) == "str" and tensor.dtype != "str"
        raise UserError(
            f"{name}: {tensor.name} is {dtype_kind(array.dtype)}, the model takes {tensor.dtype}",
            "add [data.text] for text that has to be tokenized" if text else f"convert it to {tensor.dtype}",
        )
    with np.errstate(over="ignore"):
        converted = array.astype(target)
    same = np.isfinite(converted).all() if array.dtype.kind == "f" else (converted.astype(array.dtype) == array).all()
    if not same:
        extreme = array.flat[int(np.abs(array.astype(np.float64)).argmax())]
        raise UserError(
            f"{name}: {tensor.name} has {extreme}, which {tensor.dtype} cannot hold", f"convert it to {tensor.dtype}"
        )
    return converted
