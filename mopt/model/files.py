"""A model on disk: immutable, content-addressed, with a form and a signature."""

from __future__ import annotations

__all__ = ["BATCH", "Feed", "Model", "Signature", "TensorSpec", "file_digest", "folder_digest"]

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Feed = dict[str, "npt.NDArray[Any]"]
"""Arrays by tensor name; the batch axis is present, with length 1 for one sample."""

BATCH = "batch"
"""The name of the symbolic dimension along which requests are put together."""

MAIN_FILES = {"onnx": "model.onnx", "openvino": "model.xml", "tensorrt": "model.plan"}


class TensorSpec(pydantic.BaseModel):
    """Name, NumPy type name and shape of one input or output; a symbolic dimension is a string."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class Signature(pydantic.BaseModel):
    """What goes into a model and what comes out of it.

    ``batch_axes`` gives the axis of each tensor along which samples are stacked; a tensor that is not in it is shared
    by all samples of a batch. It is found by experiment, not by name. ``batch_size`` is a number where the model has it
    fixed.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_axes: dict[str, int] = {}
    batch_size: int | None = None

    @property
    def batches(self) -> bool:
        """Whether requests can be put together freely."""
        return bool(self.batch_axes) and self.batch_size is None

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


@dataclasses.dataclass(frozen=True)
class Model:
    """A folder that holds one model, named by the digest of its content."""

    form: str
    folder: Path
    digest: str

    @property
    def file(self) -> Path:
        """The file that a runtime is given."""
        return self.folder / MAIN_FILES[self.form]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    @classmethod
    def at(cls, form: str, folder: Path) -> Model:
        """Hash a folder and describe it."""
        return cls(form, folder, folder_digest(folder))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path, *, skip: Iterable[str] = ()) -> str:
    """SHA-256 over the relative names and contents of all files of a folder, in order of name."""
    skipped = set(skip)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({name: file_digest(path) for path in files if (name := path.relative_to(folder).as_posix()) not in skipped})


def digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """SHA-256 of JSON data in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def dtype_kind(dtype: np.dtype[Any]) -> str:
    """Return the NumPy type name that a signature uses (``str`` for strings)."""
    return "str" if dtype.kind in "OUS" else dtype.name
