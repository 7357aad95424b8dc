"""Complete what the user says about the data with what the model brings along, as far as the data fits it."""

from __future__ import annotations

__all__ = ["Completion", "complete"]

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.datasets.mapping import first_cells, named
from mopt.datasets.readers._base import Reader
from mopt.datasets.spec import DataSpec, ImageSpec, SourceDefaults, TextSpec
from mopt.errors import UserError
from mopt.model.signature import Signature
from mopt.system.plugins import nearest

_USUAL_TEXT = ("text", "sentence")
"""What the column with the text is called, where several have some."""
_PICTURE_CHANNELS = (3, 4)


@dataclasses.dataclass(frozen=True)
class Completion:
    """What was taken from the model.

    Attributes:
        spec: The user's, completed.
        lines: What of it is the model's, for people.
    """

    spec: DataSpec
    lines: tuple[str, ...]


def complete(reader: Reader, signature: Signature, spec: DataSpec, defaults: SourceDefaults) -> Completion:
    """Take from the model what the recipe does not say and the data asks for; what the recipe says always wins.

    Data whose arrays are the model's inputs already is left as it is.

    Raises:
        UserError: When the data has some of the columns that the model was fitted with, and lacks others.
    """
    update: dict[str, Any] = {}
    lines: list[str] = []
    if defaults.text is not None and _takes_text(reader, signature, spec, defaults.text):
        text = _text(reader, spec, defaults.text)
        update["text"] = text
        lines.append(_text_line(text))
    if defaults.image is not None and (pictures := _pictures(reader, signature, spec)):
        update["image"] = defaults.image.model_copy(update={"column": pictures[0] if len(pictures) == 1 else ""})
        lines.append(_image_line(defaults.image))
    if defaults.columns and _takes_columns(reader, spec, defaults.columns):
        update["columns"] = {**defaults.columns, **spec.columns}
        lines += [f"{name} is {named(source)}, as it was fitted" for name, source in defaults.columns.items()]
    if not spec.classes:
        update["classes"] = defaults.classes
    return Completion(spec.model_copy(update=update), tuple(lines))


def _takes_text(reader: Reader, signature: Signature, spec: DataSpec, text: TextSpec) -> bool:
    if spec.text is not None:
        return not spec.text.tokenizer
    ready = text.input_ids in reader.columns or text.input_ids in spec.columns
    return not ready and text.input_ids in {tensor.name for tensor in signature.inputs}


def _text(reader: Reader, spec: DataSpec, text: TextSpec) -> TextSpec:
    """Return the model's with what the user says of it, and the column that is usually the text."""
    if spec.text is not None:
        said = spec.text.model_fields_set - {"tokenizer"}
        text = text.model_copy(update={name: getattr(spec.text, name) for name in said})
    return text if text.columns else text.model_copy(update={"columns": _usual_text(reader, spec)})


def _pictures(reader: Reader, signature: Signature, spec: DataSpec) -> list[str]:
    """Return the columns with pictures that nobody says how to prepare."""
    if spec.image is not None and spec.image.model_fields_set - {"column"}:
        return []
    if spec.image is not None and spec.image.column:
        return [spec.image.column]
    return [name for name, cell in first_cells(reader, reader.columns).items() if _is_picture(cell, signature)]


def _is_picture(cell: Any, signature: Signature) -> bool:
    """Whether it has to be made into an array: a file, or uint8 pixels of a shape that no input takes."""
    import numpy as np

    if isinstance(cell, np.ndarray):
        layout = cell.ndim == 2 or (cell.ndim == 3 and cell.shape[2] in _PICTURE_CHANNELS)
        ready = any(tensor.dtype == "uint8" or tensor.shape[1:] == cell.shape for tensor in signature.inputs)
        return cell.dtype.name == "uint8" and layout and not ready
    return isinstance(cell, Path | bytes) or hasattr(cell, "convert") or (isinstance(cell, dict) and "bytes" in cell)


def _takes_columns(reader: Reader, spec: DataSpec, columns: Mapping[str, Sequence[str]]) -> bool:
    if any(name in reader.columns or name in spec.columns for name in columns):
        return False
    fitted = [column for source in columns.values() for column in source]
    missing = [column for column in fitted if column not in reader.columns]
    if missing and len(missing) < len(fitted):
        raise UserError(
            f"{reader.path.name} has no column {missing[0]}, which the model was fitted with",
            f"{nearest(missing[0], reader.columns)}; columns in [data] says which ones they are, in the model's order",
        )
    return not missing


def _usual_text(reader: Reader, spec: DataSpec) -> tuple[str, ...]:
    """Return the one column that is usually the text, or nothing where that is for the mapping to find."""
    cells = first_cells(reader, [name for name in reader.columns if name not in (spec.group, *spec.slices)])
    texts = [name for name, cell in cells.items() if isinstance(cell, str)]
    usual = [name for name in _USUAL_TEXT if name in texts]
    return tuple(texts if len(texts) == 1 else usual[:1])


def _text_line(text: TextSpec) -> str:
    columns = " and ".join(text.columns) or "the text"
    return f"{columns} becomes tokens, up to {text.max_length:,}, with the model's {Path(text.tokenizer).name}"


def _image_line(image: ImageSpec) -> str:
    steps = [
        f"resize {_pixels(image.resize)}" if image.resize else "",
        f"crop {_pixels(image.crop)}" if image.crop else "",
        f"mean {_numbers(image.mean)}, std {_numbers(image.std)}" if image.std else "",
    ]
    return f"pictures are prepared as the model says: {', '.join(filter(None, steps)) or 'scaled'}"


def _pixels(size: int | tuple[int, int]) -> str:
    return " x ".join(map(str, size)) if isinstance(size, tuple) else str(size)


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
