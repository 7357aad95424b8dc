"""Scales that move difficulty from one side of a product to the other: AWQ for weights, SmoothQuant for activations.

An input is divided by its scale where it comes from (the norm or the linear layer before), and the weights that take it are
multiplied by it. In exact arithmetic the block computes the same.
"""

from __future__ import annotations

__all__ = ["Mapping", "mappings_of", "scale_for_activations", "scale_for_weights"]

import dataclasses
import re

import torch

from mopt.model.quantization import Weights
from mopt.passes.language._calibration import BlockWork, Inputs, Stage
from mopt.passes.language._layer import Layer
from mopt.passes.language._schemes import encode, find_grid

_STEPS = 10
"""Of AWQ's search for the exponent."""


@dataclasses.dataclass(frozen=True)
class Mapping:
    """What is scaled together.

    Attributes:
        before: Tensor of a norm or name of a layer whose outputs are the inputs of the others.
        after: Layers that take them.
    """

    before: str
    after: tuple[Layer, ...]


def mappings_of(work: BlockWork) -> list[Mapping]:
    """Return what can be scaled in a block, by llm-compressor's table of architectures.

    A mapping is left out where a layer after it is not quantized (it would need scaling too), where all experts take what it
    scales, since so does their router, and where the shapes do not fit, as those of values and output under grouped queries.
    """
    from llmcompressor.modifiers.transform.awq.mappings import AWQ_MAPPING_REGISTRY, default_mappings

    architecture = next(iter(work.block.layers.values())).checkpoint.architecture
    names = [*work.block.layers, *(name.removesuffix(".weight") for name in work.block.norms), *work.block.left]
    result = []
    for entry in AWQ_MAPPING_REGISTRY.get(architecture, default_mappings):
        after = [name for name in dict.fromkeys(names) if any(_is(name, pattern) for pattern in entry.balance_layers)]
        for before in dict.fromkeys(name for name in names if _is(name, entry.smooth_layer)):
            taking = [name for name in after if _expert(before) in ("", _expert(name))]
            mapping = _mapping(work, before, taking)
            if mapping is not None:
                result.append(mapping)
    return result


def scale_for_weights(work: BlockWork) -> None:
    """Scale inputs so that the weights that matter most are rounded least (AWQ, Lin et al., 2023).

    The exponents of input and weight size are searched for the least error of the layers' outputs, which the mean of ``x x^T``
    gives exactly.
    """
    for mapping in mappings_of(work):
        measured = _measure(work, mapping, hessian=True)
        if measured.tokens:
            scales = _search(work, mapping, measured)
            if scales is not None:
                _fold(work, mapping, scales)


def scale_for_activations(work: BlockWork, strength: float) -> None:
    """Scale inputs so that their outliers shrink, by ``max|x|^strength / max|W|^(1 - strength)`` (SmoothQuant, 2022)."""
    for mapping in mappings_of(work):
        if mapping.before.removesuffix(".weight") in work.block.layers:
            continue
        measured = _measure(work, mapping, hessian=False)
        if measured.tokens:
            columns = torch.stack([layer.matrix().abs().amax(0) for layer in mapping.after]).amax(0)
            scales = measured.largest.clamp_min(1e-5) ** strength / columns.clamp_min(1e-5) ** (1 - strength)
            _fold(work, mapping, scales.clamp_min(1e-5))


def _is(name: str, pattern: str) -> bool:
    return re.match(pattern[3:], name) is not None if pattern.startswith("re:") else name == pattern


def _expert(name: str) -> str:
    match = re.search(r"\.experts\.\d+\.", name)
    return match.group() if match else ""


def _mapping(work: BlockWork, before: str, after: list[str]) -> Mapping | None:
    layers = [work.block.layers[name] for name in after if name in work.targets]
    if not layers or len(layers) != len(after):
        return None
    if before in work.block.layers:
        outputs = work.block.layers[before].shape[0]
    else:
        outputs = work.block.norms[f"{before}.weight"].numel() if f"{before}.weight" in work.block.norms else 0
    experts_of_all = any(_expert(name) != _expert(before) for name in after)
    if experts_of_all or any(layer.shape[1] != outputs for layer in layers):
        return None
    return Mapping(before if before in work.block.layers else f"{before}.weight", tuple(layers))


def _measure(work: BlockWork, mapping: Mapping, *, hessian: bool) -> Inputs:
    first = mapping.after[0]
    return work.measure(Stage(((first,),), bool(_expert(first.name))), hessian=hessian)[0]


def _search(work: BlockWork, mapping: Mapping, measured: Inputs) -> torch.Tensor | None:
    """Return the scales of least error; None where no scaling is as good."""
    assert measured.hessian is not None
    columns = _relative_size(work, mapping)
    best, least = None, _error(work, mapping, torch.ones_like(columns), measured)
    for step in range(1, _STEPS):
        ratio = step / _STEPS
        for duo in (True, False):
            scales = measured.mean.clamp_min(1e-8) ** ratio
            if duo:
                scales = scales / (columns ** (1 - ratio) + 1e-4)
            scales = scales.clamp_min(1e-4)
            scales = scales / (scales.max() * scales.min()).sqrt()
            error = _error(work, mapping, scales, measured)
            if error < least:
                best, least = scales, error
    return best


def _relative_size(work: BlockWork, mapping: Mapping) -> torch.Tensor:
    """Mean over all outputs of a weight's share of the largest of its group, float32 [in]."""
    total, rows = torch.zeros(mapping.after[0].shape[1]), 0
    for layer in mapping.after:
        matrix = layer.matrix().abs()
        size = work.targets[layer.name].group_size
        grouped = matrix.view(len(matrix), -1, size if size > 0 else matrix.shape[1])
        total += (grouped / grouped.amax(-1, keepdim=True).clamp_min(1e-8)).view(matrix.shape).sum(0)
        rows += len(matrix)
    return total / rows


def _error(work: BlockWork, mapping: Mapping, scales: torch.Tensor, measured: Inputs) -> float:
    """Mean squared error of the outputs: the trace of ``E H E^T``."""
    assert measured.hessian is not None
    total = 0.0
    for layer in mapping.after:
        matrix = layer.matrix()
        difference = _restored(matrix, scales, work.targets[layer.name]).sub_(matrix)
        total += float(((difference @ measured.hessian) * difference).sum())
    return total


def _restored(matrix: torch.Tensor, scales: torch.Tensor, weights: Weights) -> torch.Tensor:
    scaled = matrix * scales
    return encode(scaled, find_grid(scaled, weights)).dequantize().div_(scales)


def _fold(work: BlockWork, mapping: Mapping, scales: torch.Tensor) -> None:
    """Scale both sides. A norm keeps its type, so that what its rounding changes goes into the scales."""
    if mapping.before in work.block.layers:
        layer = work.block.layers[mapping.before]
        layer.scale_out = scales if layer.scale_out is None else layer.scale_out * scales
    else:
        scales = _fold_into_norm(work, mapping.before, scales)
    for layer in mapping.after:
        layer.scale_in = scales if layer.scale_in is None else layer.scale_in * scales


def _fold_into_norm(work: BlockWork, name: str, scales: torch.Tensor) -> torch.Tensor:
    block = work.block
    checkpoint = next(iter(block.layers.values())).checkpoint
    kind = {"BF16": torch.bfloat16, "F16": torch.float16}.get(checkpoint.tensors[name].dtype, torch.float32)
    module = next(module for module in block.module.modules() if module._parameters.get("weight") is block.norms[name])
    offset = _offset(module)
    for parameter in (name, name.removesuffix("weight") + "bias"):
        if parameter in block.norms:
            shift = offset if parameter == name else 0.0
            old = block.norms[parameter].data.clone()
            new = (((old + shift) / scales) - shift).to(kind).float()
            if parameter == name:
                ratio = (old + shift) / (new + shift)
                scales = torch.where((new + shift).abs() > 1e-6, ratio, scales)
            block.norms[parameter].data.copy_(new)
            block.changed.add(parameter)
    return scales


def _offset(module: torch.nn.Module) -> float:
    """What a norm adds to its weight before it multiplies: 1 in Gemma's, 0 in others; found by trying."""
    weight = module._parameters["weight"]
    probe = torch.linspace(-1, 1, weight.numel())[None]
    saved = weight.data.clone()
    with torch.no_grad():
        weight.data.zero_()
        at_zero = module(probe)
        weight.data.fill_(1.0)
        at_one = module(probe)
    weight.data.copy_(saved)
    bias = module._parameters.get("bias")
    base = 0.0 if bias is None else bias.data
    return 1.0 if float((at_zero - base).abs().max()) > 0.25 * float((at_one - base).abs().max()) else 0.0
