"""A small checkpoint of random weights, and its neutral quantized form by rounding to nearest, in NumPy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mopt.model.checkpoint import copy_companions, open_checkpoint
from mopt.model.quantization import Activations, LayerQuantization, Quantization, Weights
from mopt.model.tensors import PlannedTensor, bfloat16, copied, floats, map_tensor, planned, write_checkpoint_tensors

INPUTS, HIDDEN, HEADS, KV_HEADS = 128, 256, 2, 1
CARD = """---
license: apache-2.0
base_model:
- someone/else
tags:
- text
---
# A model
"""


def checkpoint(folder: Path, *, blocks: int = 2, seed: int = 0) -> Path:
    """Write a Llama of random weights in bfloat16, without a tokenizer."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": 64,
        "hidden_size": INPUTS,
        "intermediate_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": blocks,
        "auto_map": {"AutoModel": "modeling.Model"},
        "_name_or_path": "owner/model-1b",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("a licence")
    shapes = {"model.embed_tokens.weight": (64, INPUTS), "model.norm.weight": (INPUTS,), "lm_head.weight": (64, INPUTS)}
    width = INPUTS // HEADS * KV_HEADS
    for block in range(blocks):
        prefix = f"model.layers.{block}."
        shapes |= {f"{prefix}{name}.weight": (INPUTS,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{prefix}self_attn.{name}.weight": (INPUTS, INPUTS) for name in ("q_proj", "o_proj")}
        shapes |= {f"{prefix}self_attn.{name}.weight": (width, INPUTS) for name in ("k_proj", "v_proj")}
        shapes |= {f"{prefix}mlp.{name}.weight": (HIDDEN, INPUTS) for name in ("gate_proj", "up_proj")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (INPUTS, HIDDEN)
    write_checkpoint_tensors(folder, [_random(name, shape, rng) for name, shape in shapes.items()])
    return folder


def _random(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> PlannedTensor:
    values = rng.normal(scale=0.02, size=shape) if len(shape) == 2 else rng.uniform(0.5, 1.5, shape)
    return planned(name, "BF16", bfloat16(values.astype(np.float32)))


def quantize(
    source: Path,
    folder: Path,
    weights: Weights | Mapping[str, Weights],
    activations: Activations | None = None,
    *,
    kv_cache: str = "",
    scaled: bool = False,
) -> Path:
    """Round a checkpoint's linear layers to nearest.

    Args:
        source: The checkpoint.
        folder: To write.
        weights: Of all layers, or by the last part of the name, ``""`` for the others.
        activations: Of all layers.
        kv_cache: What the checkpoint asks for; with scales for the cache.
        scaled: Fold scales into norms and neighbours before, as AWQ does.
    """
    folder.mkdir(parents=True)
    model = open_checkpoint(source)
    tensors = {name: floats(map_tensor(source, entry), entry.dtype) for name, entry in model.tensors.items()}
    if scaled:
        fold(tensors, int(model.config["num_hidden_layers"]))
    files: dict[str, list[PlannedTensor]] = {}
    layers: dict[str, LayerQuantization] = {}
    for name, entry in model.tensors.items():
        block = name.split(".")[2] if ".layers." in name else ""
        file = f"block-{int(block):05d}.safetensors" if block else "outside.safetensors"
        layer = name.removesuffix(".weight")
        if name.endswith("_proj.weight"):
            by_name = weights if isinstance(weights, Mapping) else {"": weights}
            chosen = by_name.get(layer.rpartition(".")[2], by_name.get("", Weights()))
            outputs, inputs = entry.shape
            layers[layer] = LayerQuantization(weights=chosen, activations=activations, inputs=inputs, outputs=outputs)
            files.setdefault(file, []).extend(_layer(layer, tensors[name], chosen, activations))
        elif scaled and "norm" in name:
            files.setdefault(file, []).append(planned(name, "BF16", bfloat16(tensors[name])))
        else:
            files.setdefault(file, []).append(copied(name, source, entry))
        if kv_cache and name.endswith("k_proj.weight"):
            scale = np.array([0.25], np.float32)
            parent = layer.removesuffix(".k_proj")
            files[file] += [planned(f"{parent}.{letter}_scale", "F32", scale) for letter in "kv"]
    for file, listed in files.items():
        scratch = folder / "scratch"
        scratch.mkdir()
        write_checkpoint_tensors(scratch, listed)
        (scratch / "model.safetensors").rename(folder / file)
        scratch.rmdir()
    copy_companions(source, folder)
    names = {tensor.name: file for file, listed in files.items() for tensor in listed}
    left = {"lm_head": "last"} if "lm_head.weight" in model.tensors else {}
    Quantization(algorithm="rtn", layers=layers, left=left, tensors=names, kv_cache=kv_cache, kv_scales=bool(kv_cache)).write(
        folder
    )
    return folder


def fold(tensors: dict[str, Any], blocks: int) -> None:
    """Scale inputs of layers up, and what comes before them down, as AWQ does; what the model computes stays the same."""
    rng = np.random.default_rng(7)
    for block in range(blocks):
        prefix = f"model.layers.{block}."
        for norm, names in (("input_layernorm", ("q", "k", "v")), ("post_attention_layernorm", ("gate", "up"))):
            scale = 2.0 ** rng.integers(-1, 3, INPUTS).astype(np.float32)
            tensors[f"{prefix}{norm}.weight"] = tensors[f"{prefix}{norm}.weight"] / scale
            place = "self_attn" if norm == "input_layernorm" else "mlp"
            for name in names:
                tensors[f"{prefix}{place}.{name}_proj.weight"] = tensors[f"{prefix}{place}.{name}_proj.weight"] * scale
        scale = 2.0 ** rng.integers(-1, 3, HIDDEN).astype(np.float32)
        tensors[f"{prefix}mlp.up_proj.weight"] = tensors[f"{prefix}mlp.up_proj.weight"] / scale[:, None]
        tensors[f"{prefix}mlp.down_proj.weight"] = tensors[f"{prefix}mlp.down_proj.weight"] * scale
        rows = len(tensors[f"{prefix}self_attn.v_proj.weight"])
        scale = 2.0 ** rng.integers(-1, 3, rows).astype(np.float32)
        head = INPUTS // HEADS
        repeated = scale.reshape(KV_HEADS, 1, head).repeat(HEADS // KV_HEADS, axis=1).reshape(-1)
        tensors[f"{prefix}self_attn.v_proj.weight"] = tensors[f"{prefix}self_attn.v_proj.weight"] / scale[:, None]
        tensors[f"{prefix}self_attn.o_proj.weight"] = tensors[f"{prefix}self_attn.o_proj.weight"] * repeated


def _layer(name: str, weight: Any, weights: Weights, activations: Activations | None) -> list[PlannedTensor]:
    """Round one layer, [out, in]."""
    outputs, inputs = weight.shape
    group = weights.group_size or inputs
    grouped = weight.reshape(1, 1, -1) if group == -1 else weight.reshape(outputs, inputs // group, group)
    tensors = {
        "int": _integers,
        "fp8": _fp8,
        "nvfp4": _nvfp4,
        "mxfp4": _mxfp4,
    }[weights.kind](name, grouped, weights, (outputs, inputs))
    if activations is not None and (not activations.dynamic or activations.kind == "nvfp4"):
        tensors.append(planned(f"{name}.input_scale", "F32", np.array([0.03125], np.float32)))
    return tensors


def _integers(name: str, grouped: Any, weights: Weights, shape: tuple[int, int]) -> list[PlannedTensor]:
    highest = (1 << weights.bits) - 1
    if weights.symmetric:
        scales = _rounded(np.abs(grouped).max(-1) / (highest // 2))
        codes = np.clip(np.rint(grouped / scales[..., None]), -(highest // 2) - 1, highest // 2).astype(np.int8)
        extra = []
    else:
        low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
        scales = _rounded((high - low) / highest)
        zeros = np.clip(np.rint(-low / scales), 0, highest)
        codes = np.clip(np.rint(grouped / scales[..., None]) + zeros[..., None], 0, highest).astype(np.uint8)
        extra = [planned(f"{name}.zeros", "U8", zeros.astype(np.uint8))]
    kind = "I8" if weights.symmetric else "U8"
    return [planned(f"{name}.codes", kind, codes.reshape(shape)), planned(f"{name}.scales", "F32", scales), *extra]


def _rounded(scales: Any) -> Any:
    return np.maximum(scales, 1e-4).astype(ml_dtypes.bfloat16).astype(np.float32)


def _fp8(name: str, grouped: Any, weights: Weights, shape: tuple[int, int]) -> list[PlannedTensor]:
    scales = (np.abs(grouped).max(-1) / 448).astype(np.float32)
    codes = (grouped / scales[..., None]).astype(ml_dtypes.float8_e4m3fn).view(np.uint8).reshape(shape)
    return [planned(f"{name}.codes", "F8_E4M3", codes), planned(f"{name}.scales", "F32", scales)]


def _nvfp4(name: str, grouped: Any, weights: Weights, shape: tuple[int, int]) -> list[PlannedTensor]:
    whole = np.float32(2 / (448 * 6))  # the same for all layers, as servers that run several as one want it
    scales = (np.abs(grouped).max(-1) / 6 / whole).astype(ml_dtypes.float8_e4m3fn)
    codes = _e2m1(grouped / (scales.astype(np.float32) * whole)[..., None])
    return [
        planned(f"{name}.codes", "U8", codes.reshape(shape)),
        planned(f"{name}.scales", "F8_E4M3", scales.view(np.uint8)),
        planned(f"{name}.global_scale", "F32", np.array([whole], np.float32)),
    ]


def _mxfp4(name: str, grouped: Any, weights: Weights, shape: tuple[int, int]) -> list[PlannedTensor]:
    exponents = np.floor(np.log2(np.abs(grouped).max(-1))) - 2
    codes = _e2m1(grouped / np.exp2(exponents)[..., None])
    return [
        planned(f"{name}.codes", "U8", codes.reshape(shape)),
        planned(f"{name}.scales", "U8", (exponents + 127).astype(np.uint8)),
    ]


def _e2m1(values: Any) -> Any:
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    nearest = np.abs(np.abs(values)[..., None] - levels).argmin(-1).astype(np.uint8)
    return nearest | (values < 0).astype(np.uint8) << 3


def with_activations(weights: Weights, kind: Any, *, dynamic: bool = True) -> dict[str, Any]:
    """Return the arguments of :func:`quantize` for weights and rounded inputs."""
    return {"weights": weights, "activations": Activations(kind=kind, dynamic=dynamic)}


SCHEMES: dict[str, dict[str, Any]] = {
    "w4a16": {"weights": Weights()},
    "w4a16-g32": {"weights": Weights(group_size=32)},
    "w4a16-asymmetric": {"weights": Weights(group_size=32, symmetric=False)},
    "w8a16": {"weights": Weights(bits=8, group_size=0)},
    "w8a16-g64": {"weights": Weights(bits=8, group_size=64)},
    "w8a8": with_activations(Weights(bits=8, group_size=0), "int8"),
    "fp8-dynamic": with_activations(Weights(kind="fp8", bits=8, group_size=0), "fp8"),
    "fp8-static": with_activations(Weights(kind="fp8", bits=8, group_size=-1), "fp8", dynamic=False),
    "nvfp4a16": {"weights": Weights(kind="nvfp4", group_size=16)},
    "nvfp4": with_activations(Weights(kind="nvfp4", group_size=16), "nvfp4"),
    "mxfp4a16": {"weights": Weights(kind="mxfp4", group_size=32)},
    "mxfp4a8": with_activations(Weights(kind="mxfp4", group_size=32), "fp8"),
    "mixed": {"weights": {"": Weights(group_size=32), "down_proj": Weights(bits=8, group_size=32)}},
}
