"""What quantized linear layers hold, read back from every packing that servers load.

Each decoder follows the documentation of its format and shares nothing with what packs it, so that a mistake in one of them
shows. Words of 32 bits are read as their bytes, the lowest first; a byte holds the lower code in its lower bits.

- compressed-tensors ``pack-quantized``: ``weight_packed`` int32 [out, in * bits / 32], codes along the inputs, signed ones with
  ``2 ** (bits - 1)`` added; ``weight_scale`` [out, groups]; ``weight_zero_point`` int32 [out * bits / 32, groups], along the
  outputs. ``int-quantized``, ``float-quantized``, ``naive-quantized``: ``weight`` int8 or FP8. ``nvfp4-pack-quantized``:
  ``weight_packed`` uint8 [out, in / 2] of E2M1, ``weight_scale`` FP8, divided by ``weight_global_scale``.
  ``mxfp4-pack-quantized``: the same with E8M0 scales and no global one.
- GPTQ: ``qweight`` int32 [in * bits / 32, out], codes along the inputs; ``qzeros`` int32 [groups, out * bits / 32], along the
  outputs, one less than the zero point (version 1) or the zero point itself (version 2); ``scales`` [groups, out]; ``g_idx``
  [in] the group of each input.
- AWQ (gemm): ``qweight`` int32 [in, out / 8] and ``qzeros`` int32 [groups, out / 8], along the outputs: the eight nibbles of a
  word, from the lowest, are outputs 0, 2, 4, 6, 1, 3, 5, 7; ``scales`` [groups, out].
- ModelOpt: ``weight`` FP8 or int8 [out, in], uint8 [out / 2, in] of signed nibbles (the even output below), or uint8
  [out, in / 2] of E2M1; ``weight_scale``, for NVFP4 times ``weight_scale_2``.
"""

from __future__ import annotations

__all__ = ["PackedLayer", "QuantizedFolder", "open_quantized", "packed_layers"]

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mopt.errors import UserError
from mopt.model.checkpoint import Checkpoint, TensorEntry, tensor_entries
from mopt.model.quantization import FILE_NAME, Quantization
from mopt.model.tensors import floats, map_tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Floats = npt.NDArray[np.float32]

Coding = Literal["neutral", "words", "bytes", "gptq", "awq", "fp4", "nibble rows"]
_AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)
"""Output that each nibble of a word of AWQ belongs to, from the lowest."""
_EIGHTS = -0x77777778
"""A word of eight zero points of 8, as int32: AWQ writes them for a symmetric quantization too."""
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
ROWS = 32
"""Rows are read in multiples of it, so that no word of any packing is cut."""


@dataclasses.dataclass(frozen=True)
class QuantizedFolder:
    """A folder of the neutral form, see :mod:`mopt.model.quantization`.

    Attributes:
        folder: That holds it.
        quantization: What ``quantization.json`` says.
        tensors: By name.
    """

    folder: Path
    quantization: Quantization
    tensors: Mapping[str, TensorEntry]


@dataclasses.dataclass(frozen=True)
class PackedLayer:
    """A quantized linear layer of a checkpoint, of which any rows can be decoded.

    Attributes:
        name: Without ``.weight``.
        packing: The format, as ``quantization_config`` calls it.
        coding: How codes are laid out.
        kind: ``int``, ``fp8``, ``mxfp4`` or ``nvfp4``.
        bits: Of a code.
        symmetric: Whether the zero point is the middle.
        folder: That holds the tensors.
        tensors: Those of the layer, by their last name.
        shape: Outputs and inputs.
        zero_offset: What is added to stored zero points: 1 for GPTQ of version 1.
        divided: Whether the global scale divides.
        declared: What ``config.json`` says of it: ``bits``, ``group_size`` and ``symmetric``; None where it says it otherwise.
    """

    name: str
    packing: str
    coding: Coding
    kind: Literal["int", "fp8", "mxfp4", "nvfp4"]
    bits: int
    symmetric: bool
    folder: Path
    tensors: Mapping[str, TensorEntry]
    shape: tuple[int, int]
    zero_offset: int = 0
    divided: bool = False
    declared: Mapping[str, Any] | None = None

    def raw(self, name: str) -> Array:
        """Map one of its tensors."""
        return map_tensor(self.folder, self.tensors[name])

    @property
    def groups(self) -> int:
        """Scales of a row."""
        entry = self.tensors[self._scale_name]
        if self.coding in ("gptq", "awq"):
            return entry.shape[0]
        return entry.shape[1] if len(entry.shape) == 2 else 1

    @property
    def per_tensor(self) -> bool:
        """Whether all rows share one scale."""
        return self.shape[0] > 1 and math.prod(self.tensors[self._scale_name].shape) == 1

    @property
    def factor(self) -> np.float32:
        """What all numbers of the layer are multiplied with besides: the global scale of NVFP4, else 1."""
        import numpy as np

        for name in ("global_scale", "weight_global_scale", "weight_scale_2"):
            if name in self.tensors and self.kind == "nvfp4":
                value = np.float32(self.raw(name).reshape(-1)[0])
                return np.float32(1) / value if self.divided else value
        return np.float32(1)

    @property
    def input_scale(self) -> np.float32 | None:
        """What a rounded input is multiplied with; None where it is found while the layer runs, or inputs are not rounded."""
        import numpy as np

        for name in ("input_scale", "input_global_scale"):
            if name in self.tensors:
                value = np.float32(floats(self.raw(name), self.tensors[name].dtype).reshape(-1)[0])
                return np.float32(1) / value if name == "input_global_scale" else value
        return None

    def columns(self) -> npt.NDArray[np.int64]:
        """Return the group of each input, shape [in]."""
        import numpy as np

        if "g_idx" in self.tensors or "weight_g_idx" in self.tensors:
            index = self.raw("g_idx" if "g_idx" in self.tensors else "weight_g_idx")
            return index.astype(np.int64)
        return np.arange(self.shape[1]) // -(-self.shape[1] // self.groups)

    def codes(self, begin: int, end: int) -> Array:
        """Return the numbers that codes of some rows stand for, before zero points and scales, shape [end - begin, in].

        Args:
            begin: First row, a multiple of 32.
            end: After the last row; a multiple of 32 or all rows.
        """
        return _CODINGS[self.coding](self, begin, end)[: end - begin, : self.shape[1]]

    def scales(self, begin: int, end: int) -> Floats:
        """Return the scales of some rows, shape [end - begin, groups]."""
        import numpy as np

        entry = self.tensors[self._scale_name]
        array = self.raw(self._scale_name)
        if self.coding in ("gptq", "awq"):
            return floats(array[:, begin:end].T, entry.dtype)
        array = array.reshape(-1, 1) if array.ndim < 2 else array
        rows = array[begin:end] if len(array) == self.shape[0] else np.broadcast_to(array[:1], (end - begin, array.shape[1]))
        if self.kind == "mxfp4":
            return np.ldexp(np.float32(1), rows.astype(np.int32) - 127)
        return floats(rows, entry.dtype)

    def zeros(self, begin: int, end: int) -> npt.NDArray[np.int16]:
        """Return the zero points of some rows, shape [end - begin, groups], or [1, 1] where all are the same."""
        import numpy as np

        middle = 1 << (self.bits - 1)
        if self.coding == "words" and "weight_zero_point" in self.tensors:
            per_word = 32 // self.bits
            words = self.raw("weight_zero_point")[begin // per_word : -(-end // per_word)]
            return _split(words.T, self.bits).T[: end - begin].astype(np.int16)
        if self.coding == "words":
            return np.full((1, 1), middle, np.int16)
        if self.coding in ("gptq", "awq") and "qzeros" in self.tensors:
            per_word = 32 // self.bits
            words = self.raw("qzeros")[:, begin // per_word : -(-end // per_word)]
            codes = _split(words, self.bits)
            codes = _awq_ordered(codes) if self.coding == "awq" else codes
            return codes.T[: end - begin].astype(np.int16) + np.int16(self.zero_offset)
        if self.coding in ("gptq", "awq"):
            return np.full((1, 1), middle, np.int16)
        for name in ("zeros", "weight_zero_point"):
            if name in self.tensors:
                return self.raw(name)[begin:end].astype(np.int16)
        return np.zeros((1, 1), np.int16)

    def unscaled(self, begin: int, end: int) -> Floats:
        """Return ``(code - zero) * scale`` of some rows, shape [end - begin, in]; the weight but for :attr:`factor`."""
        import numpy as np

        columns = self.columns()
        codes = self.codes(begin, end)
        if self.kind == "int":
            zeros = self.zeros(begin, end)
            codes = codes.astype(np.int16) - (zeros[:, columns] if zeros.shape[1] > 1 else zeros)
        scales = self.scales(begin, end)
        return codes.astype(np.float32) * (scales[:, columns] if scales.shape[1] > 1 else scales)

    @property
    def _scale_name(self) -> str:
        return next(name for name in ("scales", "weight_scale") if name in self.tensors)


def open_quantized(folder: Path) -> QuantizedFolder:
    """Read the headers of a folder of the neutral form."""
    if not (folder / FILE_NAME).is_file():
        raise UserError(f"{folder} has no {FILE_NAME}", "give what a quantizing pass wrote")
    quantization = Quantization.read(folder)
    tensors: dict[str, TensorEntry] = {}
    for name in sorted(set(quantization.tensors.values())):
        tensors |= tensor_entries(folder, name)
    return QuantizedFolder(folder, quantization, tensors)


def packed_layers(model: Checkpoint | QuantizedFolder) -> dict[str, PackedLayer]:
    """Return the quantized layers of a checkpoint of any packing, or of the neutral form, by name.

    Raises:
        UserError: When nothing here reads how it is packed.
    """
    if isinstance(model, QuantizedFolder):
        return {name: _neutral(model, name) for name in model.quantization.layers}
    settings = model.quantization
    method = str(settings.get("quant_method", "")).lower()
    packing = str(settings.get("packing_format", settings.get("format", ""))).lower()
    if method in ("gptq", "awq", "compressed-tensors"):
        reader = _READERS[method]
    elif method.startswith("modelopt"):
        reader = _modelopt
    elif method == "auto-round" and "awq" in packing:
        reader = _awq
    elif method == "auto-round" and "gptq" in packing:
        reader = _gptq
    elif method == "auto-round" and "llm_compressor" in packing:
        reader = _compressed_tensors
    else:
        raise UserError(f"{model.folder}: nothing reads weights packed as {method or 'none'} {packing}".rstrip(), "")
    layers: dict[str, dict[str, TensorEntry]] = {}
    for tensor, entry in model.tensors.items():
        layer, _, last = tensor.rpartition(".")
        layers.setdefault(layer, {})[last] = entry
    markers = {"qweight", "weight_packed", "weight_scale"}
    return {name: reader(model, name, tensors) for name, tensors in layers.items() if markers & tensors.keys()}


def _neutral(model: QuantizedFolder, name: str) -> PackedLayer:
    last = ("codes", "scales", "zeros", "global_scale", "input_scale")
    tensors = {key: model.tensors[f"{name}.{key}"] for key in last if f"{name}.{key}" in model.tensors}
    weights = model.quantization.layers[name].weights
    shape = tensors["codes"].shape
    return PackedLayer(
        name, "quantized", "neutral", weights.kind, weights.bits, weights.symmetric, model.folder, tensors, (shape[0], shape[1])
    )


def _compressed_tensors(model: Checkpoint, name: str, tensors: Mapping[str, TensorEntry]) -> PackedLayer:
    make = functools.partial(PackedLayer, name, "compressed-tensors", declared=_declared_group(model.quantization, name))
    if "weight_packed" not in tensors:
        shape = tensors["weight"].shape
        kind: Literal["int", "fp8"] = "fp8" if tensors["weight"].dtype == "F8_E4M3" else "int"
        symmetric = "weight_zero_point" not in tensors
        return make("bytes", kind, 8, symmetric, model.folder, tensors, (shape[0], shape[1]))
    packed = tensors["weight_packed"]
    if packed.dtype == "U8":
        shape = (packed.shape[0], packed.shape[1] * 2)
        if "weight_global_scale" in tensors:
            return make("fp4", "nvfp4", 4, True, model.folder, tensors, shape, divided=True)
        return make("fp4", "mxfp4", 4, True, model.folder, tensors, shape)
    outputs, inputs = map(int, map_tensor(model.folder, tensors["weight_shape"]))
    bits = packed.shape[1] * 32 // inputs
    return make("words", "int", bits, "weight_zero_point" not in tensors, model.folder, tensors, (outputs, inputs))


def _gptq(model: Checkpoint, name: str, tensors: Mapping[str, TensorEntry]) -> PackedLayer:
    settings = model.quantization
    words, outputs = tensors["qweight"].shape
    bits = int(_of_layer(settings, name, "bits"))
    shape = (outputs, tensors["g_idx"].shape[0] if "g_idx" in tensors else words * 32 // bits)
    second = settings.get("checkpoint_format") == "gptq_v2"
    symmetric = bool(settings.get("sym", True))
    declared = {"bits": bits, "group_size": _of_layer(settings, name, "group_size")}
    make = functools.partial(PackedLayer, name, "gptq", "gptq", "int", bits, symmetric, model.folder, tensors, shape)
    return make(zero_offset=0 if second else 1, declared=declared)


def _awq(model: Checkpoint, name: str, tensors: Mapping[str, TensorEntry]) -> PackedLayer:
    inputs, words = tensors["qweight"].shape
    zeros = tensors.get("qzeros")
    symmetric = zeros is None or not (map_tensor(model.folder, zeros) != _EIGHTS).any()
    declared = {"bits": model.quantization.get("bits"), "group_size": model.quantization.get("group_size")}
    shape = (words * 8, inputs)
    return PackedLayer(name, "awq", "awq", "int", 4, symmetric, model.folder, tensors, shape, declared=declared)


def _modelopt(model: Checkpoint, name: str, tensors: Mapping[str, TensorEntry]) -> PackedLayer:
    make = functools.partial(PackedLayer, name, "modelopt")
    weight, scale = tensors["weight"], tensors["weight_scale"]
    rows, columns = weight.shape
    if weight.dtype in ("F8_E4M3", "I8"):
        kind: Literal["int", "fp8"] = "fp8" if weight.dtype == "F8_E4M3" else "int"
        return make("bytes", kind, 8, True, model.folder, tensors, (rows, columns))
    if scale.dtype in ("F8_E4M3", "U8", "F8_E8M0"):
        fp4: Literal["nvfp4", "mxfp4"] = "nvfp4" if scale.dtype == "F8_E4M3" else "mxfp4"
        return make("fp4", fp4, 4, True, model.folder, tensors, (rows, columns * 2))
    return make("nibble rows", "int", 4, True, model.folder, tensors, (rows * 2, columns))


_READERS = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed_tensors}


def _of_layer(settings: Mapping[str, Any], name: str, key: str) -> Any:
    """What GPTQ's settings say of a layer: a rule of ``dynamic``, or of AutoRound's ``extra_config``, else what is for all."""
    for rule, values in (settings.get("dynamic") or {}).items():
        if not rule.startswith("-:") and key in values and re.match(rule.removeprefix("+:"), name):
            return values[key]
    for rule, values in (settings.get("extra_config") or {}).items():
        if key in values and (rule == name or re.fullmatch(rule, name)):
            return values[key]
    return settings[key]


def _declared_group(settings: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """What compressed-tensors' settings say of a layer's weights: the group that names it, else that of all."""
    groups = [group for group in (settings.get("config_groups") or {}).values() if isinstance(group, dict)]
    for group in sorted(groups, key=lambda group: "Linear" in group.get("targets", ())):
        for target in group.get("targets", ()):
            pattern = target.removeprefix("re:")
            if target in (name, "Linear") or (target.startswith("re:") and re.match(pattern, name)):
                weights = group.get("weights") or {}
                return {
                    "bits": weights.get("num_bits"),
                    "group_size": weights.get("group_size"),
                    "symmetric": weights.get("symmetric"),
                }
    return None


def _split(words: Array, bits: int) -> npt.NDArray[np.uint8]:
    """Take words of 32 bits apart along the last axis: [n, m] becomes [n, m * 32 / bits]."""
    import numpy as np

    octets = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    if bits == 8:
        return octets
    mask = np.uint8((1 << bits) - 1)
    codes = np.empty((*octets.shape, 8 // bits), np.uint8)
    for place in range(8 // bits):
        codes[:, :, place] = octets >> np.uint8(place * bits) & mask
    return codes.reshape(len(words), -1)


def _awq_ordered(nibbles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Put the outputs of AWQ's words, [n, m * 8], in their order."""
    import numpy as np

    words = nibbles.reshape(len(nibbles), -1, 8)
    ordered = np.empty_like(words)
    for place, output in enumerate(_AWQ_OUTPUTS):
        ordered[:, :, output] = words[:, :, place]
    return ordered.reshape(len(nibbles), -1)


def _e2m1(codes: npt.NDArray[np.uint8]) -> Floats:
    import numpy as np

    return np.array([*_E2M1, *(-value for value in _E2M1)], np.float32)[codes]


def _neutral_codes(layer: PackedLayer, begin: int, end: int) -> Array:
    codes = layer.raw("codes")[begin:end]
    if layer.kind in ("mxfp4", "nvfp4"):
        return _e2m1(codes)
    return floats(codes, "F8_E4M3") if layer.kind == "fp8" else codes


def _word_codes(layer: PackedLayer, begin: int, end: int) -> Array:
    return _split(layer.raw("weight_packed")[begin:end], layer.bits)


def _byte_codes(layer: PackedLayer, begin: int, end: int) -> Array:
    return floats(layer.raw("weight")[begin:end], "F8_E4M3") if layer.kind == "fp8" else layer.raw("weight")[begin:end]


def _gptq_codes(layer: PackedLayer, begin: int, end: int) -> Array:
    return _split(layer.raw("qweight")[:, begin:end].T, layer.bits)


def _awq_codes(layer: PackedLayer, begin: int, end: int) -> Array:
    return _awq_ordered(_split(layer.raw("qweight")[:, begin // 8 : -(-end // 8)], 4)).T


def _fp4_codes(layer: PackedLayer, begin: int, end: int) -> Array:
    name = "weight_packed" if "weight_packed" in layer.tensors else "weight"
    return _e2m1(_split(layer.raw(name)[begin:end], 4))


def _nibble_row_codes(layer: PackedLayer, begin: int, end: int) -> Array:
    import numpy as np

    pairs = layer.raw("weight")[begin // 2 : -(-end // 2)]
    codes = np.empty((len(pairs), 2, layer.shape[1]), np.int8)
    codes[:, 0], codes[:, 1] = (pairs & 0xF) ^ 8, (pairs >> 4) ^ 8
    return (codes - np.int8(8)).reshape(-1, layer.shape[1])


_CODINGS = {
    "neutral": _neutral_codes,
    "words": _word_codes,
    "bytes": _byte_codes,
    "gptq": _gptq_codes,
    "awq": _awq_codes,
    "fp4": _fp4_codes,
    "nibble rows": _nibble_row_codes,
}
