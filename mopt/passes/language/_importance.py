"""Importance matrices in llama.cpp's own format: a GGUF with sums of squares of the inputs of each layer."""

from __future__ import annotations

__all__ = ["FILE_NAME", "Sums", "read_importance", "write_importance"]

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.errors import UserError
from mopt.model.gguf import GGUF, open_gguf

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FILE_NAME = "imatrix.gguf"
SUMS, COUNTS = ".in_sum2", ".counts"


@dataclasses.dataclass(frozen=True)
class Sums:
    """What a layer was given.

    Attributes:
        squares: Sums of the squares of its inputs, shape [experts, inputs] with 1 for a dense layer.
        counts: Tokens that each expert saw, shape [experts].
    """

    squares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


def write_importance(path: Path, layers: Mapping[str, Sums], *, windows: int, length: int) -> None:
    """Write them as llama-imatrix does, by the names of the weights, for windows of one length in tokens."""
    import gguf
    import numpy as np

    class Writer(gguf.GGUFWriter):  # type: ignore[misc]
        def add_architecture(self) -> None:
            """A matrix has none."""

    writer = Writer(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["calibration"])
    writer.add_uint32("imatrix.chunk_count", windows)
    writer.add_uint32("imatrix.chunk_size", length)
    for name in sorted(layers):
        writer.add_tensor(name + SUMS, layers[name].squares.astype(np.float32))
        writer.add_tensor(name + COUNTS, layers[name].counts.astype(np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_importance(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the mean square of each input by the name of the weights, shape [experts, inputs] with 1 for a dense layer.

    An expert that saw no token has ones, as llama-quantize has it.

    Raises:
        UserError: When it is no importance matrix.
    """
    import numpy as np

    gguf = open_gguf(path)
    if gguf.metadata.get("general.type") != "imatrix":
        raise UserError(f"{path} is no importance matrix", "give a file of llama-imatrix, in its GGUF format")
    means = {}
    for name in gguf.tensors:
        if not name.endswith(SUMS):
            continue
        layer = name.removesuffix(SUMS)
        sums, counts = _tensor(gguf, name), _tensor(gguf, layer + COUNTS).reshape(-1, 1)
        sums = sums.reshape(len(counts), -1)
        means[layer] = np.where(counts > 0, sums / np.maximum(counts, 1), 1).astype(np.float32)
        if not np.isfinite(means[layer]).all():
            raise UserError(f"{path}: {layer} has seen inputs that are no numbers", "observe again, with the float16 model")
    return means


def _tensor(gguf: GGUF, name: str) -> npt.NDArray[np.float32]:
    import numpy as np

    tensor = gguf.tensors.get(name)
    if tensor is None or tensor.type != "F32":
        raise UserError(f"{gguf.path} is no importance matrix: {name} is missing or not F32", "observe again")
    return np.fromfile(gguf.path, np.float32, tensor.parameters, offset=tensor.offset)
