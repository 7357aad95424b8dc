"""AutoRound: rounding and scales of a block's layers are tuned together so that its output errs least."""

from __future__ import annotations

__all__ = ["Tuning", "tune_block"]

import dataclasses
from collections.abc import Callable

import torch

from mopt.errors import NotApplicableError
from mopt.model.quantization import Weights
from mopt.passes.language._calibration import BlockWork
from mopt.passes.language._layer import Layer
from mopt.passes.language._schemes import Coded, Grid, encode, find_grid

_LEAST_SCALE, _MOST_SCALE = 0.0, 1.0


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How long and how a block is tuned.

    Attributes:
        iters: Steps of signed gradient descent.
        tokens: Of a step.
        seed: Of the choice of windows.
        amp: Whether products are computed in bfloat16 where the processor has instructions for it.
    """

    iters: int = 200
    tokens: int = 4096
    seed: int = 0
    amp: bool = True


@dataclasses.dataclass
class _Tuned:
    """What is tuned of a layer; AutoRound's names are V, alpha and beta."""

    layer: Layer
    weights: Weights
    matrix: torch.Tensor
    start: Grid
    offset: torch.Tensor
    """Added to a weight in steps before it is rounded, [rows, size]."""
    most: torch.Tensor
    """Factor of the scale (symmetric) or of the largest weight, [rows]."""
    least: torch.Tensor
    """Factor of the smallest weight, [rows]; not used where there is no zero point."""
    rounded: torch.Tensor | None = None
    """The weights as they are rounded in this step, cut off from what they depend on."""

    def parameters(self) -> list[torch.Tensor]:
        return [self.offset, self.most, self.least]


def tune_block(work: BlockWork, tuning: Tuning) -> None:
    """Tune the layers of a block against its outputs in the source (Cheng et al., 2023), with AutoRound's own arithmetic.

    What a step changes is AutoRound's: the quantizing functions ``int_sym`` and ``int_asym``, the optimizer ``SignSGD``, and
    products in bfloat16. The best state of all steps is kept, the start, which is what the scales of a search give, among them.
    """
    assert work.inputs is not None
    assert work.target is not None
    tuned = _prepare(work)
    for part in tuned:
        part.layer.replacement = _replacement(part)
    _descend(work, tuned, tuning)
    for part in tuned:
        part.layer.replacement = None
        part.layer.coded = _finish(part)
        part.layer.activations = work.activations


def _prepare(work: BlockWork) -> list[_Tuned]:
    tuned = []
    measured = _square_inputs(work)
    for layer in work.layers():
        weights = work.targets[layer.name]
        if weights.kind != "int":
            raise NotApplicableError("AutoRound tunes integers here")
        matrix = layer.matrix()
        grid = find_grid(matrix, weights, measured.get(layer.name), search=True)
        size = weights.group_size if weights.group_size > 0 else matrix.shape[1]
        rows = matrix.numel() // size
        offset = torch.zeros(rows, size, requires_grad=True)
        factors = [torch.ones(rows, requires_grad=True) for _ in range(2)]
        tuned.append(_Tuned(layer, weights, matrix.view(rows, size), grid, offset, *factors))
    return tuned


def _square_inputs(work: BlockWork) -> dict[str, torch.Tensor]:
    """Mean square of the inputs of each layer."""
    result: dict[str, torch.Tensor] = {}
    for stage in work.stages(hessian=False):
        for group, inputs in zip(stage.groups, work.measure(stage, hessian=False), strict=True):
            if inputs.tokens:
                result |= {layer.name: inputs.square for layer in group}
            else:
                work.notes |= {layer.name: "calibration never reached it: rounded to nearest" for layer in group}
    return result


def _quantized(part: _Tuned) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the weights as they are rounded now, [rows, size], with scales and zero points, [rows, 1]."""
    from auto_round.data_type.int import quant_tensor_asym, quant_tensor_sym

    named = {"bits": part.weights.bits, "group_size": part.matrix.shape[1], "v": part.offset, "scale_dtype": torch.bfloat16}
    if part.weights.symmetric:
        values, scale, _ = quant_tensor_sym(
            part.matrix, init_scale=part.start.scales.reshape(-1, 1), max_scale=part.most, q_scale_thresh=1e-8, **named
        )
        return values, scale.float(), None
    assert part.start.zeros is not None
    start, zeros = part.start.scales.reshape(-1), part.start.zeros.reshape(-1)
    least, most = -zeros * start, ((1 << part.weights.bits) - 1 - zeros) * start
    values, scale, zero = quant_tensor_asym(
        part.matrix, min_scale=part.least, max_scale=part.most, tensor_min=least, tensor_max=most, q_scale_thresh=1e-8, **named
    )
    return values, scale.float(), zero


def _replacement(part: _Tuned) -> Callable[[torch.Tensor], torch.Tensor]:
    bias = part.layer.scaled_bias()

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        assert part.rounded is not None
        return torch.nn.functional.linear(inputs, part.rounded.view(part.layer.shape), bias)

    return forward


def _descend(work: BlockWork, tuned: list[_Tuned], tuning: Tuning) -> None:
    """Take the steps; leave the best state in the parameters."""
    from auto_round.algorithms.quantization.sign_round.sign_sgd import SignSGD

    inputs = work.inputs
    assert inputs is not None
    rate = 1.0 / tuning.iters
    optimizer = SignSGD(
        [
            {"params": [part.offset for part in tuned]},
            {"params": [factor for part in tuned for factor in (part.most, part.least)], "lr": rate},
        ],
        lr=rate, weight_decay=0,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=tuning.iters)
    choice = torch.Generator().manual_seed(tuning.seed + work.block.index)
    count = max(1, min(inputs.count, tuning.tokens // inputs.length))
    least, best = float("inf"), [parameter.detach().clone() for part in tuned for parameter in part.parameters()]
    order: list[int] = []
    amp = tuning.amp and torch.cpu._is_avx512_bf16_supported()
    for _ in range(tuning.iters):
        if len(order) < count:
            order = torch.randperm(inputs.count, generator=choice).tolist()
        chosen, order = order[:count], order[count:]
        loss = _step(work, tuned, chosen, amp=amp)
        if loss < least:
            least = loss
            for kept, parameter in zip(best, (p for part in tuned for p in part.parameters()), strict=True):
                kept.copy_(parameter.detach())
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            for part in tuned:
                part.offset.clamp_(-0.5, 0.5)
    with torch.no_grad():
        for kept, parameter in zip(best, (p for part in tuned for p in part.parameters()), strict=True):
            parameter.copy_(kept)


def _step(work: BlockWork, tuned: list[_Tuned], chosen: list[int], *, amp: bool) -> float:
    """Accumulate the gradients of some windows, few at a time; return the mean squared error of the block's output.

    Weights are rounded once for all of them, and gradients pass through the rounding once, which costs as much as some windows.
    """
    assert work.inputs is not None
    assert work.target is not None
    rounded = [_quantized(part)[0] for part in tuned]
    for part, weight in zip(tuned, rounded, strict=True):
        part.rounded = weight.detach().requires_grad_()
    total = 0.0
    for begin in range(0, len(chosen), work.inputs.batch):
        windows = chosen[begin : begin + work.inputs.batch]
        target = work.target.pick(windows)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            output = work.block.differentiable(work.inputs.pick(windows))
        loss = (output.float() - target).square().mean() * (len(windows) / len(chosen))
        (loss * 1000).backward()
        total += float(loss.detach())
    torch.autograd.backward(rounded, [part.rounded.grad for part in tuned if part.rounded is not None])
    return total


def _finish(part: _Tuned) -> Coded:
    """Return the codes of what was tuned."""
    with torch.no_grad():
        values, scale, zero = _quantized(part)
    shape = part.start.scales.shape
    zeros = None if zero is None else zero.reshape(shape).clamp(0, (1 << part.weights.bits) - 1)
    return encode(values.view(part.layer.shape).clone(), Grid(part.weights, scale.reshape(shape), zeros))
