"""What every export of a quantized checkpoint is: the neutral form in, the files that a server loads out, tensor by tensor."""

from __future__ import annotations

__all__ = [
    "FUSED",
    "ExportPass",
    "NeutralLayer",
    "exact_scale_type",
    "float32_scale",
    "pack_words",
    "row_parts",
    "schemes",
    "unquantized_layers",
]

import abc
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.checkpoint import TensorEntry, copy_companions
from mopt.model.files import Model
from mopt.model.packed import QuantizedFolder, open_quantized
from mopt.model.quantization import LayerQuantization
from mopt.model.tensors import PlannedTensor, bfloat16, copied, map_tensor, planned, write_checkpoint_tensors
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_LAST = ("codes", "scales", "zeros", "global_scale", "input_scale")
_CARD = "README.md"
_PART = 1 << 24
"""Codes that are packed at a time."""
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Layers that servers run as one, whose schemes have to be the same."""


@dataclasses.dataclass(frozen=True)
class NeutralLayer:
    """A quantized linear layer in the neutral form.

    Attributes:
        name: Of the layer.
        scheme: How it is quantized.
        folder: That holds its tensors.
        tensors: By their last name: ``codes``, ``scales``, ...
    """

    name: str
    scheme: LayerQuantization
    folder: Path
    tensors: Mapping[str, TensorEntry]

    def array(self, name: str) -> Array:
        """Map one of its tensors; FP8 comes as its bits."""
        return map_tensor(self.folder, self.tensors[name])

    def scalar(self, name: str) -> np.float32 | None:
        """Return a tensor of one number; None where there is none."""
        import numpy as np

        return np.float32(self.array(name).reshape(-1)[0]) if name in self.tensors else None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        outputs, inputs = self.tensors["codes"].shape
        return outputs, inputs

    def unsigned(self, codes: Array) -> npt.NDArray[np.uint8]:
        """Return integer codes as all packings hold them: with the middle added where they are signed."""
        import numpy as np

        if codes.dtype == np.int8:
            return (codes.astype(np.int16) + (1 << (self.scheme.weights.bits - 1))).astype(np.uint8)
        return codes

    def zeros(self) -> npt.NDArray[np.uint8]:
        """Return zero points of unsigned codes, shape [out, groups]; the middle for symmetric ones."""
        import numpy as np

        if "zeros" in self.tensors:
            return self.array("zeros")
        return np.full(self.array("scales").shape, 1 << (self.scheme.weights.bits - 1), np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportPass(LanguagePass):
    """Neutral form in, a checkpoint of Hugging Face out, which holds exactly the same numbers.

    Attributes:
        base_model: Name on the hub of what was quantized, for the model card; empty for the one that ``config.json`` names.
        shard_bytes: Bytes of tensors in one file at most.
    """

    takes: ClassVar[str] = "quantized"
    makes: ClassVar[str] = "huggingface"
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    tools: ClassVar[str] = ""
    title: ClassVar[str] = ""
    """Of the packing, for the model card."""

    base_model: str = ""
    shard_bytes: int = 4_000_000_000

    @abc.abstractmethod
    def refusal(self, layer: NeutralLayer) -> str:
        """Say why the packing cannot hold a layer; empty where it can."""

    @abc.abstractmethod
    def layer_tensors(self, layer: NeutralLayer, dtype: str) -> Iterable[PlannedTensor]:
        """Plan the tensors of a layer.

        Args:
            layer: The layer.
            dtype: Type of the model's own numbers: ``BF16``, ``F16`` or ``F32``.
        """

    @abc.abstractmethod
    def settings(self, quantized: QuantizedFolder) -> dict[str, Any]:
        """Return the ``quantization_config`` of ``config.json``."""

    def extra_files(self, quantized: QuantizedFolder, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return further JSON files by name."""
        return {}

    def rename(self, tensor: str) -> str:
        """Return what the packing calls a tensor that is copied."""
        return tensor

    def check(self, quantized: QuantizedFolder) -> None:
        """Refuse what the packing cannot hold.

        Raises:
            NotApplicableError: With the layer and the reason.
        """
        for layer in _layers(quantized):
            if reason := self.refusal(layer):
                raise NotApplicableError(f"{layer.name}: {reason}")
        _check_fused(quantized)

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Write the checkpoint."""
        quantized = open_quantized(source.folder)
        self.check(quantized)
        config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
        files = write_checkpoint_tensors(folder, list(self._tensors(quantized, _model_dtype(config))), self.shard_bytes)
        copy_companions(source.folder, folder, skip=("config.json", _CARD))
        settings = self.settings(quantized)
        _write_json(folder / "config.json", _cleaned(config) | {"quantization_config": settings})
        for name, content in self.extra_files(quantized, settings).items():
            _write_json(folder / name, content)
        card = source.folder / _CARD
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        base = self.base_model or _hub_name(config)
        (folder / _CARD).write_text(_model_card(text, base, self._description(quantized)), encoding="utf-8")
        return PassResult(True, {"files": len(files), "layers": len(quantized.quantization.layers), "packing": self.title})

    def _tensors(self, quantized: QuantizedFolder, dtype: str) -> Iterator[PlannedTensor]:
        """Plan all tensors in the order of the neutral form's files, so that a shard holds whole blocks."""
        layers = {layer.name: layer for layer in _layers(quantized)}
        for tensor, entry in quantized.tensors.items():
            name, _, last = tensor.rpartition(".")
            if name not in layers or last not in _LAST:
                yield copied(self.rename(tensor), quantized.folder, entry)
            elif last == "codes":
                yield from self.layer_tensors(layers[name], dtype)

    def _description(self, quantized: QuantizedFolder) -> str:
        quantization = quantized.quantization
        kinds = sorted({_scheme_text(layer) for layer in quantization.layers.values()})
        left = ", ".join(sorted(quantization.left)) or "none"
        lines = [
            f"- Weights: {'; '.join(kinds)} ({len(quantization.layers)} linear layers), found by {quantization.algorithm}",
            f"- Packing: {self.title}",
            f"- Linear layers left as they were: {left}",
        ]
        if quantization.calibration_tokens:
            lines.append(f"- Calibrated on {quantization.calibration_tokens} tokens")
        if quantization.kv_cache:
            lines.append(f"- KV cache: {quantization.kv_cache}")
        return "\n".join(lines)


def pack_words(codes: Array, bits: int) -> npt.NDArray[np.int32]:
    """Pack codes along the last axis into words of 32 bits, the first in the lowest bits.

    Args:
        codes: Unsigned, shape [n, m]; a last word that is not full is filled with zeros.
        bits: Of a code; divides 32.

    Returns:
        Shape [n, ceil(m * bits / 32)].
    """
    import numpy as np

    each = 32 // bits
    rows, columns = codes.shape
    padded = np.zeros((rows, -(-columns // each) * each), np.uint32)
    padded[:, :columns] = codes
    words = np.zeros((rows, padded.shape[1] // each), np.uint32)
    for place in range(each):
        words |= padded[:, place::each] << np.uint32(place * bits)
    return words.view(np.int32)


def row_parts(array: Array, make: Callable[[Array], Array], multiple: int = 32, axis: int = 0) -> Callable[[], Iterator[Array]]:
    """Return what makes a tensor from another one some rows (or columns) at a time.

    Args:
        array: Shape [out, in], mapped.
        make: From a slice of it to the part of the new tensor.
        multiple: Of rows in a slice, so that no word is cut.
        axis: 0 to slice outputs, 1 to slice inputs.
    """

    def parts() -> Iterator[Array]:
        count = array.shape[axis]
        step = max(multiple, _PART // max(1, array.shape[1 - axis]) // multiple * multiple)
        for begin in range(0, count, step):
            yield make(array[begin : begin + step] if axis == 0 else array[:, begin : begin + step])

    return parts


def exact_scale_type(scales: npt.NDArray[np.float32], wanted: str, name: str) -> tuple[str, Array]:
    """Return scales in the type that the packing wants if it holds them exactly, else in bfloat16.

    Raises:
        CandidateRejectedError: When neither does: then they are not what the neutral form promises.
    """
    import numpy as np

    if wanted == "F32":
        return "F32", np.ascontiguousarray(scales)
    with np.errstate(over="ignore", under="ignore"):  # what does not fit shows in the comparison
        half = scales.astype(np.float16)
    if wanted == "F16" and np.array_equal(half.astype(np.float32), scales):
        return "F16", half
    bits = bfloat16(scales)
    if not np.array_equal((bits.astype(np.uint32) << np.uint32(16)).view(np.float32), scales):
        raise CandidateRejectedError(Rejection.FAILED, f"{name}: its scales are not numbers of bfloat16")
    return "BF16", bits


def float32_scale(name: str, layer: NeutralLayer, shape: tuple[int, ...]) -> PlannedTensor:
    """Plan the scales of a layer in float32."""
    import numpy as np

    return planned(name, "F32", np.ascontiguousarray(layer.array("scales"), np.float32).reshape(shape))


def unquantized_layers(quantized: QuantizedFolder) -> list[str]:
    """Return the linear layers that are left as they are, by name: those that say so, and every other matrix of the model."""
    quantization = quantized.quantization
    names = set(quantization.left)
    for tensor, entry in quantized.tensors.items():
        if tensor.endswith(".weight") and len(entry.shape) == 2 and "embed" not in tensor:
            names.add(tensor.removesuffix(".weight"))
    return sorted((names | {"lm_head"}) - quantization.layers.keys())


def schemes(quantized: QuantizedFolder) -> list[tuple[LayerQuantization, list[str]]]:
    """Return each scheme and the layers that have it, the most frequent first."""
    groups: dict[Any, list[str]] = {}
    for name, layer in quantized.quantization.layers.items():
        groups.setdefault((layer.weights, layer.activations), []).append(name)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[1]))
    return [(LayerQuantization(weights=weights, activations=inputs), names) for (weights, inputs), names in ordered]


def _layers(quantized: QuantizedFolder) -> Iterator[NeutralLayer]:
    for name, scheme in quantized.quantization.layers.items():
        tensors = {last: quantized.tensors[f"{name}.{last}"] for last in _LAST if f"{name}.{last}" in quantized.tensors}
        yield NeutralLayer(name, scheme, quantized.folder, tensors)


def _check_fused(quantized: QuantizedFolder) -> None:
    layers = quantized.quantization.layers
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        for names in FUSED:
            if last != names[0]:
                continue
            for neighbour in (f"{parent}.{fused}" for fused in names[1:]):
                lacking = neighbour not in layers and f"{neighbour}.weight" in quantized.tensors
                if lacking or (neighbour in layers and _scheme_of(layers[neighbour]) != _scheme_of(layer)):
                    raise NotApplicableError(f"servers run {name} and {neighbour} as one layer, and their schemes differ")
                if neighbour in layers and not _same_global(quantized, name, neighbour):
                    raise NotApplicableError(f"servers give {name} and {neighbour} one global scale, and theirs differ")


def _same_global(quantized: QuantizedFolder, name: str, neighbour: str) -> bool:
    entries = [quantized.tensors.get(f"{layer}.global_scale") for layer in (name, neighbour)]
    scales = {float(map_tensor(quantized.folder, entry).reshape(-1)[0]) for entry in entries if entry is not None}
    return len(scales) < 2


def _scheme_of(layer: LayerQuantization) -> Any:
    return layer.weights, layer.activations


def _model_dtype(config: Mapping[str, Any]) -> str:
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    return {"bfloat16": "BF16", "float16": "F16"}.get(name, "F32")


def _cleaned(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what would run code, what names a folder of this machine, and what says how the source was quantized."""
    dropped = {"auto_map", "trust_remote_code", "quantization_config"}
    if not _hub_name(config):
        dropped.add("_name_or_path")
    return {key: value for key, value in config.items() if key not in dropped}


def _hub_name(config: Mapping[str, Any]) -> str:
    name = str(config.get("_name_or_path") or "")
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) else ""


def _scheme_text(layer: LayerQuantization) -> str:
    weights = layer.weights
    group = {0: "a scale a row", -1: "one scale"}.get(weights.group_size, f"groups of {weights.group_size}")
    kind = f"INT{weights.bits}" if weights.kind == "int" else weights.kind.upper()
    text = f"{kind}, {group}" + ("" if weights.symmetric else ", with zero points")
    if layer.activations is None:
        return text
    return f"{text}; inputs {layer.activations.kind.upper()} {'dynamic' if layer.activations.dynamic else 'static'}"


def _model_card(text: str, base_model: str, description: str) -> str:
    """Return the source's card with what the hub asks of a quantized model in its front matter, and a section at its end."""
    front, body = _front_matter(text)
    kept: list[str] = []
    skipping = False
    for line in front:
        key = re.match(r"[A-Za-z_]+(?=\s*:)", line)
        skipping = key.group() in ("base_model", "base_model_relation") if key else skipping
        if not skipping:
            kept.append(line)
    if base_model:
        kept += [f"base_model: {base_model}", "base_model_relation: quantized"]
    head = "\n".join(["---", *kept, "---", ""]) if kept else ""
    return f"{head}{body.rstrip()}\n\n## Quantization\n\n{description}\n".lstrip("\n")


def _front_matter(text: str) -> tuple[list[str], str]:
    lines = text.splitlines()
    if lines[:1] == ["---"] and "---" in lines[1:]:
        end = lines.index("---", 1)
        return lines[1:end], "\n".join(lines[end + 1 :]) + "\n"
    return [], text


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
