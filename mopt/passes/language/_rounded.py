"""The weights that codes stand for, as a plain checkpoint: what tools trace or convert that know no packing."""

from __future__ import annotations

__all__ = ["decoded", "tensor_of", "write_rounded"]

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.model.checkpoint import copy_companions
from mopt.model.packed import QuantizedFolder
from mopt.model.tensors import PlannedTensor, bfloat16, copied, map_tensor, write_checkpoint_tensors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_ROWS = 1024
"""Of a layer that are decoded at a time."""


def tensor_of(quantized: QuantizedFolder, name: str) -> Array | None:
    """Map a tensor of the neutral form; None where it has none of this name."""
    entry = quantized.tensors.get(name)
    return None if entry is None else map_tensor(quantized.folder, entry)


def write_rounded(quantized: QuantizedFolder, folder: Path) -> None:
    """Write a checkpoint in bfloat16 whose weights are about those that the codes stand for."""
    layers = quantized.quantization.layers
    plans = []
    for name, entry in quantized.tensors.items():
        parent, _, last = name.rpartition(".")
        if parent not in layers:
            plans.append(copied(name, quantized.folder, entry))
        elif last == "codes":
            plans.append(_rounded(quantized, parent, (entry.shape[0], entry.shape[1])))
    write_checkpoint_tensors(folder, plans)
    copy_companions(quantized.folder, folder, skip=("config.json",))
    config = json.loads((quantized.folder / "config.json").read_text(encoding="utf-8"))
    plain = {key: value for key, value in config.items() if key not in ("auto_map", "quantization_config")}
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")


def _rounded(quantized: QuantizedFolder, layer: str, shape: tuple[int, int]) -> PlannedTensor:
    codes, scales, zeros = (tensor_of(quantized, f"{layer}.{last}") for last in ("codes", "scales", "zeros"))
    assert codes is not None
    assert scales is not None

    def parts() -> Iterator[Array]:
        for begin in range(0, shape[0], _ROWS):
            rows = slice(begin, begin + _ROWS)
            yield bfloat16(decoded(codes[rows], _rows(scales, rows), None if zeros is None else _rows(zeros, rows)))

    return PlannedTensor(f"{layer}.weight", "BF16", shape, parts)


def _rows(array: Array, rows: slice) -> Array:
    """Rows of scales or zero points, of which there may be one for all."""
    return array if len(array) == 1 else array[rows]


def decoded(codes: Array, scales: Array, zeros: Array | None) -> npt.NDArray[np.float32]:
    """Return the numbers that codes stand for.

    Args:
        codes: Shape [out, in].
        scales: Shape [out or 1, groups].
        zeros: The same shape; None where the codes are signed.
    """
    import numpy as np

    outputs, inputs = codes.shape
    grouped = codes.astype(np.float32).reshape(outputs, scales.shape[1], -1)
    shifted = grouped if zeros is None else grouped - zeros.astype(np.float32)[:, :, None]
    numbers: npt.NDArray[np.float32] = (shifted * scales.astype(np.float32)[:, :, None]).reshape(outputs, inputs)
    return numbers
