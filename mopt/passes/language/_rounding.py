"""From weights to codes: to the nearest, or with the error of each column made up for by the next ones (GPTQ)."""

from __future__ import annotations

__all__ = ["Factor", "Rounding", "factorize", "gptq", "quantize_stages"]

import dataclasses

import torch

from mopt.passes.language._calibration import BlockWork, Inputs
from mopt.passes.language._layer import Layer
from mopt.passes.language._schemes import Coded, Grid, encode, find_grid, nearest

_COLUMNS = 128
"""That are worked on before the rest of the matrix is updated."""
_SOLVED = 512
"""Columns of an inverse that are found at a time."""


@dataclasses.dataclass(frozen=True)
class Rounding:
    """How codes are chosen.

    Attributes:
        gptq: Whether the error of a column is made up for by the next ones.
        search: Whether scales are searched.
        damping: Share of the mean of the Hessian's diagonal that is added to it.
        ordered: Whether columns of large inputs come first. Groups stay those of consecutive inputs, so that every format
            holds the result ("static groups").
    """

    gptq: bool = False
    search: bool = True
    damping: float = 0.01
    ordered: bool = True


def quantize_stages(work: BlockWork, rounding: Rounding) -> None:
    """Quantize the layers of a block in the order of its forward pass; each sees what those before it give as quantized."""
    if work.inputs is None:
        for group in work.sharing():
            _quantize_group(work, group, None, rounding)
        return
    for stage in work.stages(hessian=rounding.gptq):
        measured = work.measure(stage, hessian=rounding.gptq)
        for group in stage.groups:
            _quantize_group(work, group, measured.pop(0), rounding)


@dataclasses.dataclass(frozen=True)
class Factor:
    """Of a Hessian: what GPTQ needs, for all layers that share their inputs.

    Attributes:
        upper: R of ``H + damping = R R^T`` in the order of the columns, float32 [in, in].
        order: Columns in the order in which they are rounded.
    """

    upper: torch.Tensor
    order: torch.Tensor


def factorize(hessian: torch.Tensor, rounding: Rounding) -> Factor | None:
    """Factorize a Hessian in its own memory; return None where it cannot be.

    R is the Cholesky factor of H with both axes turned around, turned around.
    """
    diagonal = hessian.diagonal()
    dead = diagonal <= 0
    mean = float(diagonal.mean())
    diagonal[dead] = mean
    order = torch.argsort(diagonal, descending=True, stable=True) if rounding.ordered else torch.arange(len(diagonal))
    _permute(hessian, order)
    hessian.diagonal().add_(rounding.damping * mean)
    _reverse(hessian)
    lower, info = hessian.mT, torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(lower, out=(lower, info))
    _reverse(hessian)
    return Factor(hessian.mT, order) if int(info) == 0 else None


def gptq(weight: torch.Tensor, factor: Factor, grid: Grid) -> Coded:
    """Choose codes so that the output ``W x`` errs least (Frantar et al., 2022); the weights are overwritten.

    The inverse of the Hessian is never formed: the factor that GPTQ needs, ``H^-1 = U^T U``, is ``U = R^-1``, and some rows of
    it are found at a time.

    Args:
        weight: float32 [out, in].
        factor: Of the Hessian of its inputs.
        grid: Scales, which do not change.
    """
    order = factor.order
    _permute_columns(weight, order)
    inputs = len(order)
    for begin in range(0, inputs, _COLUMNS):
        end = min(begin + _COLUMNS, inputs)
        rows = _rows_of_inverse(factor.upper, begin, end)
        block = weight[:, begin:end].T.contiguous()
        errors = torch.empty_like(block)
        for place, column in enumerate(order[begin:end].tolist()):
            scale, zero = grid.column(column)
            rounded = nearest(block[place], scale[:, 0], None if zero is None else zero[:, 0], grid.weights)
            errors[place] = (block[place] - rounded) / rows[place, place]
            block[place] = rounded
            block[place + 1 :].addr_(rows[place, place + 1 : end - begin], errors[place], alpha=-1)
        weight[:, begin:end] = block.T
        weight[:, end:].addmm_(errors.T, rows[:, end - begin :], alpha=-1)
    _permute_columns(weight, torch.argsort(order))
    return encode(weight, grid)


def _quantize_group(work: BlockWork, group: tuple[Layer, ...], measured: Inputs | None, rounding: Rounding) -> None:
    """Quantize layers that share their inputs."""
    reached = measured is not None and measured.tokens > 0
    if measured is not None and not reached:
        for layer in group:
            work.notes[layer.name] = "calibration never reached it: rounded to nearest"
    factor = None
    if rounding.gptq and measured is not None and measured.hessian is not None and reached:
        factor = factorize(measured.hessian, rounding)
        if factor is None:
            work.notes |= {layer.name: "its Hessian cannot be factorized: rounded to nearest" for layer in group}
    largest = _largest(work, group)
    for layer in group:
        matrix = layer.matrix()
        importance = measured.square if measured is not None and reached else None
        grid = find_grid(matrix, work.targets[layer.name], importance, search=rounding.search, largest=largest)
        layer.coded = encode(matrix, grid) if factor is None else gptq(matrix, factor, grid)
        layer.activations = work.activations
        if work.activations is not None and not work.activations.dynamic:
            layer.input_scale = _input_scale(work, measured)


def _largest(work: BlockWork, group: tuple[Layer, ...]) -> float | None:
    """Largest weight of layers that a server computes as one: it gives them one global scale."""
    if len(group) < 2 or work.targets[group[0].name].kind != "nvfp4":
        return None
    return max(float(layer.matrix().abs().max()) for layer in group)


def _input_scale(work: BlockWork, measured: Inputs | None) -> torch.Tensor:
    assert work.activations is not None
    largest = float(measured.largest.max()) if measured is not None and measured.tokens else 1.0
    most = {"int8": 127.0, "fp8": 448.0, "nvfp4": 448.0 * 6, "mxfp4": 1.0}[work.activations.kind]
    return torch.tensor([max(largest, 1e-6) / most], dtype=torch.float32)


def _permute_columns(matrix: torch.Tensor, order: torch.Tensor) -> None:
    """Permute columns in place, some rows at a time."""
    for begin in range(0, len(matrix), _COLUMNS):
        matrix[begin : begin + _COLUMNS] = matrix[begin : begin + _COLUMNS, order]


def _permute(matrix: torch.Tensor, order: torch.Tensor) -> None:
    """Permute rows and columns in place: the rows along the cycles of the permutation."""
    _permute_columns(matrix, order)
    origins = order.tolist()
    done = [False] * len(origins)
    for start in range(len(origins)):
        saved, place = matrix[start].clone(), start
        while not done[place]:
            done[place] = True
            origin = origins[place]
            matrix[place] = saved if done[origin] else matrix[origin]
            place = origin


def _reverse(matrix: torch.Tensor) -> None:
    """Turn both axes around in place."""
    flat = matrix.view(-1)
    half = len(flat) // 2
    step = 1 << 18
    for begin in range(0, half, step):
        end = min(begin + step, half)
        head = flat[begin:end].flip(0)
        tail = flat[len(flat) - end : len(flat) - begin].flip(0)
        flat[begin:end] = tail
        flat[len(flat) - end : len(flat) - begin] = head


def _rows_of_inverse(factor: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """Return rows ``begin`` to ``end`` of the inverse of an upper triangular matrix, from column ``begin`` on.

    Some columns at a time, since ``solve_triangular`` copies a matrix that is a part of another.
    """
    rows = torch.zeros(end - begin, len(factor) - begin)
    rows.fill_diagonal_(1.0)
    for first in range(0, rows.shape[1], _SOLVED):
        last = min(first + _SOLVED, rows.shape[1])
        part = rows[:, first:last]
        part.addmm_(rows[:, :first], factor[begin : begin + first, begin + first : begin + last], alpha=-1)
        corner = factor[begin + first : begin + last, begin + first : begin + last].contiguous()
        rows[:, first:last] = torch.linalg.solve_triangular(corner, part, upper=True, left=False)
    return rows
