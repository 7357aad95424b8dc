"""Put the codes of a quantized checkpoint into a GGUF, for llama.cpp's fastest types."""

from __future__ import annotations

__all__ = ["ExportGgufCodes"]

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.checkpoint import Checkpoint, open_checkpoint
from mopt.model.files import Model
from mopt.model.gguf import GGUF, GGUFTensor, open_gguf
from mopt.model.packed import QuantizedFolder, open_quantized
from mopt.model.quantization import LayerQuantization
from mopt.model.tensors import PlannedTensor, map_tensor, write_checkpoint_tensors
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass
from mopt.passes.language._gguf_codes import BLOCK, FOLDER_NAME, block_rows, block_type
from mopt.passes.language._rounded import write_rounded
from mopt.passes.language.export_gguf import ExportGguf

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_ROWS = 1024
"""Of a tensor that are written at a time."""

_Place = tuple[str, int]
"""A layer, and one of its rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportGgufCodes(LanguagePass):
    """Neutral form in; out an unquantized GGUF of the same numbers, and beside it their codes as its blocks.

    ``quantize_gguf`` takes them as they are, and chooses types for the rest. The converter permutes rows of some layers and
    stacks experts: where a row went is found by its bytes, so that no architecture needs a rule of its own.
    """

    takes: ClassVar[str] = "quantized"
    makes: ClassVar[str] = "gguf"
    libraries: ClassVar[tuple[str, ...]] = ExportGguf.libraries

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Write ``model.gguf`` and ``codes/``.

        Raises:
            NotApplicableError: When the blocks of a GGUF cannot hold a layer.
            CandidateRejectedError: When a row of a layer is nowhere in the GGUF.
        """
        quantized = open_quantized(source.folder)
        for name, layer in quantized.quantization.layers.items():
            if reason := _refusal(layer, quantized.tensors[f"{name}.codes"].shape[1]):
                raise NotApplicableError(f"{name}: {reason}")
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            write_rounded(quantized, Path(scratch))
            places = _places(open_checkpoint(Path(scratch)), quantized.quantization.layers)
            result = ExportGguf(dtype=_dtype_of(quantized)).apply(Model("huggingface", Path(scratch), ""), folder)
        gguf = open_gguf(folder / "model.gguf")
        rows = {name: origins for name, tensor in gguf.tensors.items() if (origins := _origins_of(gguf, tensor, places))}
        lost = quantized.quantization.layers.keys() - {layer for listed in rows.values() for layer, _ in listed}
        if lost:
            raise CandidateRejectedError(Rejection.FAILED, f"{min(lost)} is nowhere in the GGUF")
        (folder / FOLDER_NAME).mkdir()
        plans = [_planned(quantized, name, listed) for name, listed in rows.items()]
        write_checkpoint_tensors(folder / FOLDER_NAME, plans, limit=sum(plan.size for plan in plans))
        return PassResult(True, {**result.detail, "layers": len(quantized.quantization.layers)})


def _refusal(layer: LayerQuantization, inputs: int) -> str:
    """Say why the blocks of a GGUF cannot hold a layer; nothing when they can."""
    weights = layer.weights
    if weights.kind != "int" or layer.activations is not None or not weights.symmetric or weights.bits not in (4, 8):
        return "its blocks hold signed integers of 4 or 8 bits whose inputs are not rounded"
    if inputs % BLOCK or (weights.group_size > 0 and weights.group_size % BLOCK):
        return f"{inputs} inputs in groups of {weights.group_size} are no blocks of {BLOCK}"
    return ""


def _dtype_of(quantized: QuantizedFolder) -> Literal["bf16", "f32"]:
    """The least type that holds what is not quantized, and the numbers of bfloat16 that stand for codes."""
    layers = quantized.quantization.layers
    others = {entry.dtype for name, entry in quantized.tensors.items() if name.rpartition(".")[0] not in layers}
    return "bf16" if others <= {"BF16"} else "f32"


def _bits_of_rows(rows: Array) -> Iterator[bytes]:
    """A digest of each row of bfloat16 numbers."""
    return (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)


def _places(rounded: Checkpoint, layers: Iterable[str]) -> dict[bytes, _Place]:
    """Where each row is, by the digest of its numbers."""
    places: dict[bytes, _Place] = {}
    for name in layers:
        rows = map_tensor(rounded.folder, rounded.tensors[f"{name}.weight"])
        places |= {key: (name, row) for row, key in enumerate(_bits_of_rows(rows))}
    return places


def _origins_of(gguf: GGUF, tensor: GGUFTensor, places: Mapping[bytes, _Place]) -> list[_Place]:
    """Where the rows of a tensor come from; none for one that was not quantized."""
    import numpy as np

    if len(tensor.shape) < 2 or tensor.type not in ("BF16", "F32"):
        return []
    kind = np.dtype("<u2" if tensor.type == "BF16" else "<u4")
    rows = np.memmap(gguf.path, kind, "r", tensor.offset, (tensor.parameters // tensor.shape[-1], tensor.shape[-1]))
    origins: list[_Place] = []
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS]
        for key in _bits_of_rows(part if tensor.type == "BF16" else (part >> 16).astype("<u2")):
            if key not in places:
                return []
            origins.append(places[key])
    return origins


def _planned(quantized: QuantizedFolder, name: str, rows: list[_Place]) -> PlannedTensor:
    layer = rows[0][0]
    inputs = quantized.tensors[f"{layer}.codes"].shape[1]
    bits = quantized.quantization.layers[layer].weights.bits
    width = inputs // BLOCK * block_type(bits)[1]

    def parts() -> Iterator[Array]:
        for begin in range(0, len(rows), _ROWS):
            yield _blocks(quantized, rows[begin : begin + _ROWS], bits)

    return PlannedTensor(name, "U8", (len(rows), width), parts)


def _blocks(quantized: QuantizedFolder, rows: list[_Place], bits: int) -> npt.NDArray[np.uint8]:
    import numpy as np

    def mapped(last: str) -> dict[str, Array]:
        names = {layer for layer, _ in rows}
        return {layer: map_tensor(quantized.folder, quantized.tensors[f"{layer}.{last}"]) for layer in names}

    codes, scales = mapped("codes"), mapped("scales")
    return block_rows(
        np.stack([codes[layer][row] for layer, row in rows]),
        np.stack([scales[layer][row if len(scales[layer]) > 1 else 0] for layer, row in rows]),
        bits,
    )
