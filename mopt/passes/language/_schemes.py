"""Arithmetic of the number formats: scales, codes and what they stand for.

Nothing here allocates more than some rows of a matrix at a time, besides what it returns.
"""

from __future__ import annotations

__all__ = ["Coded", "Grid", "encode", "find_grid", "nearest", "round_inputs"]

import dataclasses
import itertools

import torch

from mopt.model.quantization import Activations, Weights

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The positive values of FP4, by code (OCP Microscaling Formats 1.0, section 5.3.3)."""
_FP8_MAX = 448.0
_ROWS = 1 << 20
"""Numbers that a search for scales looks at at a time."""
_RATIOS = tuple(0.5 + 0.025 * step for step in range(29))
"""Of the scale that a search tries to the one that holds the largest weight."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Scales and zero points of a matrix, before any code is chosen.

    Attributes:
        weights: The format.
        scales: What a step is worth, float32 [out, groups]; [1, 1] for one in all. For FP4 all factors are in it.
        zeros: float32 [out, groups]; None where 0.
        exponents: What FP4 stores: uint8 E8M0 (MXFP4) or ``float8_e4m3fn`` (NVFP4), [out, groups].
        global_scale: float32 [1], for NVFP4.
    """

    weights: Weights
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    exponents: torch.Tensor | None = None
    global_scale: torch.Tensor | None = None

    def column(self, index: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return scale and zero point of one input, each [out, 1]."""
        group = index // self.weights.group_size if self.weights.group_size > 0 else 0
        return self.scales[:, group : group + 1], None if self.zeros is None else self.zeros[:, group : group + 1]


@dataclasses.dataclass(frozen=True)
class Coded:
    """A quantized matrix [out, in]; the fields are those of the neutral form."""

    weights: Weights
    codes: torch.Tensor
    grid: Grid

    def dequantize(self) -> torch.Tensor:
        """Return what it stands for, float32 [out, in]."""
        if self.weights.kind in ("mxfp4", "nvfp4"):
            table = torch.tensor((*E2M1, *(-value for value in E2M1)))
            values = table[self.codes.int()]
        else:
            values = self.codes.float()
        grouped = _grouped(values, self.weights)
        if self.grid.zeros is not None:
            grouped -= self.grid.zeros[:, :, None]
        grouped *= self.grid.scales[:, :, None]
        return values

    def rows(self, first: int, last: int) -> Coded:
        """Return some outputs of it."""
        grid = self.grid
        whole = len(grid.scales) < len(self.codes)
        scales = grid.scales if whole else grid.scales[first:last]
        zeros = grid.zeros if whole or grid.zeros is None else grid.zeros[first:last]
        return Coded(self.weights, self.codes[first:last], Grid(grid.weights, scales, zeros))

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors of the neutral form, by name."""
        grid = self.grid
        result = {f"{name}.codes": self.codes, f"{name}.scales": grid.scales if grid.exponents is None else grid.exponents}
        if grid.zeros is not None:
            result[f"{name}.zeros"] = grid.zeros.to(torch.uint8)
        if grid.global_scale is not None:
            result[f"{name}.global_scale"] = grid.global_scale
        return result


def find_grid(
    weight: torch.Tensor, weights: Weights, importance: torch.Tensor | None = None, *, search: bool = False,
    largest: float | None = None,
) -> Grid:  # fmt: skip
    """Choose the scales.

    Args:
        weight: float32 [out, in].
        weights: The format.
        importance: float32 [in]: what an input's squared error counts, such as the mean of its square; None for 1.
        search: Whether scales are searched that make the (weighted) squared error least, as llama.cpp and AutoRound do
            ("opt-rtn"), or just hold the largest weight.
        largest: Largest absolute value of all matrices that share a global scale; None for this one alone. Only for NVFP4.
    """
    if weights.kind == "nvfp4":
        peak = float(weight.abs().max()) if largest is None else largest
        return _nvfp4(weight, weights, importance, peak, search=search)
    find = {"int": _integer, "fp8": _fp8, "mxfp4": _mxfp4}[weights.kind]
    if weights.group_size == -1:
        return find(weight.reshape(1, -1), weights, None, search=False)
    step = max(1, _ROWS // weight.shape[1])
    parts = [find(weight[row : row + step], weights, importance, search=search) for row in range(0, len(weight), step)]
    return Grid(
        weights, torch.cat([part.scales for part in parts]), _joined([part.zeros for part in parts]),
        _joined([part.exponents for part in parts]),
    )  # fmt: skip


def encode(weight: torch.Tensor, grid: Grid) -> Coded:
    """Choose the nearest codes of a matrix [out, in]."""
    kinds = {"fp8": torch.float8_e4m3fn, "mxfp4": torch.uint8, "nvfp4": torch.uint8}
    integer = torch.int8 if grid.weights.symmetric else torch.uint8
    codes = torch.empty(weight.shape, dtype=kinds.get(grid.weights.kind, integer))
    step = max(1, _ROWS // weight.shape[1])
    for row in range(0, len(weight), step):
        rows = slice(row, row + step) if len(grid.scales) > 1 else slice(None)
        values = _grouped(weight[row : row + step].clone(), grid.weights)
        values /= grid.scales[rows, :, None]
        if grid.zeros is not None:
            values += grid.zeros[rows, :, None]
        rounded = _rounded(values, grid.weights)
        codes[row : row + step] = _as_codes(rounded, grid.weights).reshape(-1, weight.shape[1])
    return Coded(grid.weights, codes, grid)


def nearest(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """Return the nearest numbers that a format holds; all are of one shape, or broadcast."""
    if zero is None:
        return _rounded(values / scale, weights) * scale
    return (_rounded(values / scale + zero, weights) - zero) * scale


def round_inputs(inputs: torch.Tensor, activations: Activations, scale: torch.Tensor | None = None) -> torch.Tensor:
    """Return inputs [..., in] as a layer sees them that rounds them; ``scale`` is a fixed one."""
    if activations.kind in ("int8", "fp8"):
        most = 127.0 if activations.kind == "int8" else _FP8_MAX
        step = scale if scale is not None else (inputs.abs().amax(-1, keepdim=True) / most).clamp_min(1e-12)
        values = inputs / step
        return (values.round().clamp(-128, 127) if activations.kind == "int8" else _to_fp8(values)) * step
    group = 32 if activations.kind == "mxfp4" else 16
    values = inputs.reshape(-1, inputs.shape[-1])
    kind = Weights(kind="mxfp4" if activations.kind == "mxfp4" else "nvfp4", group_size=group)
    peak = None if scale is None else float(scale) * _FP8_MAX * 6
    grid = find_grid(values, kind, largest=peak)
    return encode(values, grid).dequantize().reshape(inputs.shape)


def _integer(weight: torch.Tensor, weights: Weights, importance: torch.Tensor | None, *, search: bool) -> Grid:
    grouped = _grouped(weight, weights)
    low, high = _range(weights)
    if weights.symmetric:
        peak = grouped.abs().amax(-1)
        scales, zeros = _brain(peak / ((high - low) / 2)), None
        # The range has one code more below than above: the largest weight is put there, whatever its sign.
        signed = torch.where(grouped.amax(-1) >= peak, -peak, peak) / -low if search else scales
        starts = [signed * ratio for ratio in _RATIOS] if search else []
        tries = [(_brain(start), None) for start in starts]
    else:
        least, most = grouped.amin(-1).clamp_max(0), grouped.amax(-1).clamp_min(0)
        scales, zeros = _with_zero(least, most, high)
        tries = [_with_zero(least * ratio, most * ratio, high) for ratio in _RATIOS if ratio <= 1.1] if search else []
    if not search:
        return Grid(weights, scales, zeros)
    cost = _group_costs(importance, grouped)
    error = _error(grouped, scales, zeros, weights, cost)
    for candidate in tries:
        scales, zeros, error = _better(grouped, (scales, zeros, error), candidate, weights, cost)
    for _ in range(2):
        refined = _least_squares(grouped, scales, zeros, weights, cost)
        scales, zeros, error = _better(grouped, (scales, zeros, error), (refined, zeros), weights, cost)
    return Grid(weights, scales, zeros)


def _with_zero(least: torch.Tensor, most: torch.Tensor, high: int) -> tuple[torch.Tensor, torch.Tensor]:
    scales = _brain((most - least) / high)
    return scales, (-least / scales).round().clamp(0, high)


def _better(
    grouped: torch.Tensor,
    best: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor],
    candidate: tuple[torch.Tensor, torch.Tensor | None],
    weights: Weights,
    cost: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    scales, zeros, error = best
    tried = _error(grouped, *candidate, weights, cost)
    less = tried < error
    zero = None if zeros is None or candidate[1] is None else torch.where(less, candidate[1], zeros)
    return torch.where(less, candidate[0], scales), zero, torch.where(less, tried, error)


def _error(
    grouped: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, weights: Weights, cost: torch.Tensor | None
) -> torch.Tensor:
    zero = None if zeros is None else zeros[:, :, None]
    difference = nearest(grouped, scales[:, :, None], zero, weights).sub_(grouped).square_()
    return difference.sum(-1) if cost is None else difference.mul_(cost).sum(-1)


def _least_squares(
    grouped: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, weights: Weights, cost: torch.Tensor | None
) -> torch.Tensor:
    """The scales that fit best to the codes that these scales lead to."""
    shift = 0.0 if zeros is None else zeros[:, :, None]
    codes = _rounded(grouped / scales[:, :, None] + shift, weights) - shift
    weighted = codes if cost is None else codes * cost
    square = (weighted * codes).sum(-1)
    fitted = (weighted * grouped).sum(-1) / square
    return _brain(torch.where(square > 0, fitted, scales))


def _group_costs(importance: torch.Tensor | None, grouped: torch.Tensor) -> torch.Tensor | None:
    """Costs [1, groups, size]; an input that calibration never saw still counts a little."""
    if importance is None:
        return None
    costs = importance + 1e-3 * importance.mean() + 1e-30
    return costs.reshape(1, grouped.shape[1], grouped.shape[2])


def _fp8(weight: torch.Tensor, weights: Weights, importance: torch.Tensor | None, *, search: bool) -> Grid:
    grouped = _grouped(weight, weights)
    scales = (grouped.abs().amax(-1) / _FP8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    if not search:
        return Grid(weights, scales)
    cost = _group_costs(importance, grouped)
    best = (scales, None, _error(grouped, scales, None, weights, cost))
    for ratio in _RATIOS:
        best = _better(grouped, best, (scales * ratio, None), weights, cost)
    return Grid(weights, best[0])


def _mxfp4(weight: torch.Tensor, weights: Weights, importance: torch.Tensor | None, *, search: bool) -> Grid:
    """Powers of two: ``floor(log2(largest)) - 2`` (OCP Microscaling 1.0, section 6.3), or the next one where that errs less."""
    grouped = _grouped(weight, weights)
    exponent = (torch.frexp(grouped.abs().amax(-1)).exponent - 1 - 2).clamp(-127, 127)
    scales = torch.ldexp(torch.ones(exponent.shape), exponent)
    if search:
        cost = _group_costs(importance, grouped)
        best = (scales, None, _error(grouped, scales, None, weights, cost))
        for factor in (0.5, 2.0):
            best = _better(grouped, best, ((scales * factor).clamp(2.0**-126, 2.0**126), None), weights, cost)
        scales = best[0]
    stored = (torch.frexp(scales).exponent - 1 + 127).to(torch.uint8)
    return Grid(weights, scales, exponents=stored)


def _nvfp4(weight: torch.Tensor, weights: Weights, importance: torch.Tensor | None, peak: float, *, search: bool) -> Grid:
    """FP8 scales of 16 weights below one scale of the whole matrix, which makes the largest of them 448."""
    whole = torch.tensor([max(peak, 1e-30) / (_FP8_MAX * 6)], dtype=torch.float32)
    parts = []
    step = max(1, _ROWS // weight.shape[1])
    for row in range(0, len(weight), step):
        grouped = _grouped(weight[row : row + step], weights)
        stored = _to_fp8(grouped.abs().amax(-1) / 6 / whole).clamp_min(2.0**-9)
        if search:
            cost = _group_costs(importance, grouped)
            best = (stored * whole, None, _error(grouped, stored * whole, None, weights, cost))
            for ratio in (0.75, 0.875, 1.125, 1.25, 1.5):
                tried = _to_fp8(stored * ratio).clamp_min(2.0**-9) * whole
                best = _better(grouped, best, (tried, None), weights, cost)
            stored = _to_fp8(best[0] / whole)
        parts.append(stored)
    scales = torch.cat(parts)
    return Grid(weights, scales * whole, exponents=scales.to(torch.float8_e4m3fn), global_scale=whole)


def _grouped(values: torch.Tensor, weights: Weights) -> torch.Tensor:
    """View [out, in] as [out, groups, size]."""
    rows, inputs = values.shape
    if weights.group_size == -1:
        return values.view(1, 1, -1)
    return values.view(rows, -1, weights.group_size or inputs)


def _rounded(values: torch.Tensor, weights: Weights) -> torch.Tensor:
    """The nearest code as a number; integers to even, as all of them do."""
    if weights.kind == "int":
        low, high = _range(weights)
        return values.round().clamp_(low, high)
    if weights.kind == "fp8":
        return _to_fp8(values)
    return _to_e2m1(values)


def _to_fp8(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn).float()


def _to_e2m1(values: torch.Tensor) -> torch.Tensor:
    """Round to E2M1, ties to even: below 2 steps are 0.5, below 4 they are 1, above 2."""
    size = values.abs().clamp_max(6.0)
    rounded = torch.where(size < 2, (size * 2).round() / 2, torch.where(size < 4, size.round(), (size / 2).round() * 2))
    return torch.copysign(rounded, values)


def _as_codes(rounded: torch.Tensor, weights: Weights) -> torch.Tensor:
    if weights.kind == "int":
        return rounded.to(torch.int8 if weights.symmetric else torch.uint8)
    if weights.kind == "fp8":
        return rounded.to(torch.float8_e4m3fn)
    edges = torch.tensor([(low + high) / 2 for low, high in itertools.pairwise(E2M1)])
    code = torch.bucketize(rounded.abs(), edges).to(torch.uint8)
    return code + 8 * (rounded < 0).to(torch.uint8)


def _range(weights: Weights) -> tuple[int, int]:
    steps = 1 << weights.bits
    return (-steps // 2, steps // 2 - 1) if weights.symmetric else (0, steps - 1)


def _brain(scales: torch.Tensor) -> torch.Tensor:
    """Round to bfloat16; a group of zeros has a scale that can be divided by."""
    rounded = scales.to(torch.bfloat16).float()
    return torch.where(rounded.abs() < 1e-8, torch.full_like(rounded, 2.0**-24), rounded)


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
