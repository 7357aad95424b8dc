"""One row of a ``.npy`` file at a time, read and not mapped: mapped pages count as the process's memory."""

from __future__ import annotations

__all__ = ["RowFile", "load_array"]

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mopt.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class RowFile:
    """An array of shape [samples, ...] in a file.

    Attributes:
        label: What people call the array.
        offset: Bytes before the first row.
    """

    path: Path
    label: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @classmethod
    def at(cls, path: Path, label: str) -> Self:
        """Read the header of a file.

        Raises:
            UserError: When it is not a ``.npy`` file, is cut off, or holds Python objects.
        """
        from numpy.lib import format as npy

        try:
            with path.open("rb") as stream:
                version = npy.read_magic(stream)
                header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, fortran, dtype = header(stream)
                offset = stream.tell()
        except ValueError as error:
            raise UserError(f"{label} is not a NumPy array: {str(error).splitlines()[0]}", "write it with numpy.save") from None
        if dtype.hasobject:
            raise UserError(f"{label} holds Python objects", "convert it to numbers or to fixed-width strings")
        if path.stat().st_size < offset + math.prod(shape) * dtype.itemsize:
            raise UserError(f"{label} is cut off: its {list(shape)} {dtype} are not all there", "write it again")
        if not shape:
            raise UserError(f"{label} is a single number", "put the samples on axis 0")
        return cls(path, label, shape, dtype, fortran, offset)

    def __len__(self) -> int:
        return self.shape[0]

    def row(self, index: int) -> npt.NDArray[Any]:
        """Return row ``index``, shape ``shape[1:]``."""
        import numpy as np

        if self.fortran:
            return np.array(np.load(self.path, mmap_mode="r", allow_pickle=False)[index])
        count = math.prod(self.shape[1:])
        with self.path.open("rb") as stream:
            stream.seek(self.offset + index * count * self.dtype.itemsize)
            data = stream.read(count * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype, count).reshape(self.shape[1:])


def load_array(path: Path, label: str) -> npt.NDArray[Any]:
    """Load a whole ``.npy`` file.

    Raises:
        UserError: As :meth:`RowFile.at`, but a single number is fine.
    """
    import numpy as np

    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{label} is not a whole NumPy array of numbers: {reason}", "write it with numpy.save") from None
    return array
