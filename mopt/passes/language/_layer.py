"""A linear layer whose weights stay on disk, or are codes, and are float32 only while it computes."""

from __future__ import annotations

__all__ = ["Layer", "UnfusedExperts"]

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from mopt.model.checkpoint import Checkpoint
from mopt.model.quantization import Activations
from mopt.passes.language._schemes import Coded, round_inputs
from mopt.passes.language._tensors import read_span

_NUMBERS = 4 << 20
"""Weights that are float32 at a time."""


class Layer(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """Stands for a ``torch.nn.Linear``.

    Attributes:
        name: In the checkpoint, without ``.weight``.
        scale_in: What its weights are multiplied by along the inputs (AWQ, SmoothQuant), float32 [in]; None for 1.
        scale_out: What its weights and bias are divided by along the outputs, float32 [out]; None for 1.
        coded: Its quantized weights; None while it computes with those of the checkpoint.
        activations: How its inputs are rounded, once it is quantized.
        input_scale: Fixed scale of its inputs.
        watch: Called with the layer and its inputs before it computes.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.checkpoint, self.name, self.bias = checkpoint, name, bias
        self.scale_in: torch.Tensor | None = None
        self.scale_out: torch.Tensor | None = None
        self.coded: Coded | None = None
        self.activations: Activations | None = None
        self.input_scale: torch.Tensor | None = None
        self.replacement: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.watch: Callable[[Layer, torch.Tensor], None] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        outputs, inputs = self.checkpoint.tensors[f"{self.name}.weight"].shape
        return outputs, inputs

    @property
    def in_features(self) -> int:
        """Inputs, under the name that models ask a linear layer for."""
        return self.shape[1]

    @property
    def out_features(self) -> int:
        """Outputs, under the name that models ask a linear layer for."""
        return self.shape[0]

    @property
    def weight(self) -> torch.Tensor:
        """What it multiplies with, float32 [out, in]."""
        return self.matrix() if self.coded is None else self.coded.dequantize()

    def matrix(self) -> torch.Tensor:
        """Return the weights of the checkpoint with what was folded into them, float32 [out, in]."""
        matrix = torch.empty(self.shape)
        for first, last in self._spans():
            matrix[first:last] = self._source(first, last)
        return matrix

    def scaled_bias(self) -> torch.Tensor | None:
        """Return the bias with what was folded into it."""
        return self.bias if self.bias is None or self.scale_out is None else self.bias / self.scale_out

    def error(self) -> float:
        """Return ``|W' - W| / |W|`` against the checkpoint, with the scaling undone."""
        if self.coded is None:
            return 0.0
        error = power = 0.0
        for first, last in self._spans():
            expected = read_span(self.checkpoint, f"{self.name}.weight", first, last)
            restored = self.coded.rows(first, last).dequantize()
            if self.scale_in is not None:
                restored /= self.scale_in
            if self.scale_out is not None:
                restored *= self.scale_out[first:last, None]
            error += float(restored.sub_(expected).square_().sum())
            power += float(expected.square_().sum())
        return math.sqrt(error / max(power, 1e-30))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute [..., in] -> [..., out]."""
        if self.watch is not None:
            self.watch(self, inputs)
        if self.replacement is not None:
            return self.replacement(inputs)
        if self.activations is not None and self.coded is not None:
            inputs = round_inputs(inputs, self.activations, self.input_scale)
        outputs = inputs.new_empty((*inputs.shape[:-1], self.shape[0]))
        for first, last in self._spans():
            weight = self._source(first, last) if self.coded is None else self.coded.rows(first, last).dequantize()
            outputs[..., first:last] = torch.nn.functional.linear(inputs, weight)
        bias = self.scaled_bias()
        return outputs if bias is None else outputs.add_(bias)

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of outputs that are worked on together."""
        outputs, inputs = self.shape
        step = max(1, _NUMBERS // inputs)
        yield from ((first, min(first + step, outputs)) for first in range(0, outputs, step))

    def _source(self, first: int, last: int) -> torch.Tensor:
        """Return some outputs of :meth:`matrix`."""
        rows = read_span(self.checkpoint, f"{self.name}.weight", first, last)
        if self.scale_in is not None:
            rows *= self.scale_in
        if self.scale_out is not None:
            rows /= self.scale_out[first:last, None]
        return rows


class UnfusedExperts(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """Experts one by one, as checkpoints have them, in the place of the fused tensors of transformers.

    Args:
        experts: For each the layers of gate, up and down.
        activation: Of the gate.
    """

    def __init__(self, experts: list[tuple[Layer, Layer, Layer]], activation: Any) -> None:
        super().__init__()
        self.experts = torch.nn.ModuleList([torch.nn.ModuleList(layers) for layers in experts])
        self.activation = activation

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Compute [tokens, hidden] from the experts that the router chose, [tokens, k], and their shares, [tokens, k]."""
        result = torch.zeros_like(hidden)
        for index, (gate, up, down) in enumerate(self.experts):
            token, place = torch.where(chosen == index)
            if len(token):
                inputs = hidden[token]
                outputs = down(self.activation(gate(inputs)) * up(inputs))
                result.index_add_(0, token, outputs * shares[token, place, None])
        return result
