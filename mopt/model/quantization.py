"""A quantized checkpoint before it is packed for a server: codes, scales and zero points as plain tensors.

Every algorithm writes this form and every export reads it, so that the checkpoints of two servers hold the same numbers. A
folder of it has:

- ``quantization.json``: a :class:`Quantization`.
- ``block-00000.safetensors`` and so on: one file for each decoder block, and ``outside.safetensors`` for all else. A tensor
  that is not quantized keeps its name and type. A linear layer ``NAME`` that is has, in the place of ``NAME.weight`` [out, in]:

  - ``NAME.codes`` [out, in]: int8 for symmetric integers (-8 to 7, -128 to 127), uint8 for others (0 to 15, 0 to 255);
    ``float8_e4m3fn`` for FP8; uint8 with the four bits of E2M1 for FP4.
  - ``NAME.scales``: float32 [out, groups], one group a row (or one row in all, [1, 1]) where ``group_size`` is 0; FP4 has them
    in ``float8_e4m3fn`` (NVFP4) or as uint8 exponents E8M0 (MXFP4).
  - ``NAME.zeros`` [out, groups] uint8, where the integers are not symmetric: ``weight = (codes - zeros) * scales``.
  - ``NAME.global_scale`` float32 [1] for NVFP4: ``weight = code * scale * global_scale``.
  - ``NAME.input_scale`` float32 [1] where inputs have a fixed scale: ``input = code * input_scale``.

- all other files of the source: configuration, tokenizer, chat template, licence, model card.

Scales of integers are rounded to bfloat16 before the codes are chosen, so that every format holds them exactly, whether it
keeps them in float32, bfloat16 or float16.
"""

from __future__ import annotations

__all__ = ["FILE_NAME", "Activations", "LayerQuantization", "Quantization", "Weights"]

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

FILE_NAME = "quantization.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """How the weights of a linear layer are held.

    Attributes:
        kind: ``int`` of ``bits`` bits, ``fp8`` (E4M3), ``mxfp4`` or ``nvfp4``.
        bits: Of a code.
        group_size: Consecutive inputs that share a scale; 0 for a whole row, -1 for the whole tensor.
        symmetric: Whether the zero point is 0.
    """

    kind: Literal["int", "fp8", "mxfp4", "nvfp4"] = "int"
    bits: int = 4
    group_size: int = 128
    symmetric: bool = True

    def bits_per_weight(self, inputs: int) -> float:
        """Return bits a weight, scales (16 bits; 8 for FP4) and zero points included, for a layer of so many inputs."""
        group = self.group_size if self.group_size > 0 else inputs
        scale = 8 if self.kind in ("mxfp4", "nvfp4") else 16
        zero = 0 if self.symmetric or self.kind != "int" else self.bits
        return self.bits + (scale + zero) / group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """How the inputs of a linear layer are rounded.

    Attributes:
        kind: ``int8``, ``fp8``, ``mxfp4`` or ``nvfp4``.
        dynamic: Whether each token has a scale of its own, found while it runs; else one was found by calibration.
    """

    kind: Literal["int8", "fp8", "mxfp4", "nvfp4"]
    dynamic: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerQuantization:
    """What became of one linear layer.

    Attributes:
        weights: How they are held.
        activations: How its inputs are rounded; None where they stay as they are.
        error: ``|W' - W| / |W|`` (Frobenius) against the source, with what an algorithm scales into a neighbour undone.
        inputs: Of the layer.
        outputs: Of the layer.
    """

    weights: Weights
    activations: Activations | None = None
    error: float = 0.0
    inputs: int = 0
    outputs: int = 0

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> LayerQuantization:
        """Return what ``dataclasses.asdict`` made JSON data of."""
        activations = data.get("activations")
        return cls(**{**data, "weights": Weights(**data["weights"]), "activations": activations and Activations(**activations)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """What ``quantization.json`` says.

    Attributes:
        algorithm: ``rtn``, ``awq``, ``gptq``, ``autoround``, ...
        layers: Quantized linear layers by name.
        left: Linear layers that were left as they are, each with the reason.
        tensors: File of each tensor, quantized ones under their four or fewer names.
        kv_cache: Type of the cache that the checkpoint asks for: ``fp8``, ``int8`` or nothing.
        kv_scales: Whether ``NAME.k_scale`` and ``NAME.v_scale`` were calibrated.
        calibration_tokens: Tokens of real text that the algorithm saw.
    """

    algorithm: str
    layers: Mapping[str, LayerQuantization]
    left: Mapping[str, str]
    tensors: Mapping[str, str]
    kv_cache: str = ""
    kv_scales: bool = False
    calibration_tokens: int = 0

    @property
    def uniform(self) -> LayerQuantization | None:
        """The scheme of all layers where they share one, sizes and errors aside; None for mixed bits."""
        schemes = {(layer.weights, layer.activations) for layer in self.layers.values()}
        if len(schemes) != 1:
            return None
        weights, activations = schemes.pop()
        return LayerQuantization(weights=weights, activations=activations)

    def write(self, folder: Path) -> None:
        """Write ``quantization.json``."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Quantization:
        """Read ``quantization.json``."""
        data = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        return cls(**{**data, "layers": {name: LayerQuantization.from_data(layer) for name, layer in data["layers"].items()}})
