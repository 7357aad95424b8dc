"""Bits for each layer, chosen from what was measured of all of them: a knapsack."""

from __future__ import annotations

__all__ = ["LayerOption", "LayerUnit", "Mix", "choose_mix"]

import dataclasses
from collections.abc import Sequence

from mopt.errors import UserError

_STATES = 20_000
"""Combinations that are kept from layer to layer; below that the choice is exact."""


@dataclasses.dataclass(frozen=True)
class LayerOption:
    """A way to hold the layers of a unit.

    Attributes:
        bits: Of a weight; 16 leave it.
        group_size: Consecutive inputs that share a scale.
        bits_per_weight: With scales and zero points.
        loss: What it costs in quality; losses of units add up.
    """

    bits: int
    group_size: int
    bits_per_weight: float
    loss: float


@dataclasses.dataclass(frozen=True)
class LayerUnit:
    """Layers that must be held alike, because a server computes them as one.

    Attributes:
        layers: Their names.
        weights: Numbers in all of them.
        options: To choose from.
    """

    layers: tuple[str, ...]
    weights: int
    options: tuple[LayerOption, ...]


@dataclasses.dataclass(frozen=True)
class Mix:
    """A choice for every unit.

    Attributes:
        layers: For the field ``layers`` of a pass: name, bits, group size.
        bits_per_weight: On average.
        loss: Sum over all units.
    """

    layers: tuple[tuple[str, int, int], ...]
    bits_per_weight: float
    loss: float


def choose_mix(units: Sequence[LayerUnit], *, bits_per_weight: float | None = None, loss: float | None = None) -> Mix:
    """Choose an option for each unit: the least loss below a size, or the least size below a loss.

    All combinations that no other one beats in both size and loss are carried from unit to unit, which is exact. Where they
    grow too many, the best of each of 20,000 ranges of size is kept, and the size of the result is still what it says.

    Args:
        units: With their options; losses and sizes are sums over units.
        bits_per_weight: On average at most.
        loss: In all at most.

    Raises:
        UserError: When neither or both limits are given, or no combination keeps to it.
    """
    if (bits_per_weight is None) == (loss is None):
        raise UserError("give either a size or a loss", "bits_per_weight=4.5, for example")
    total = sum(unit.weights for unit in units)
    front = _front(units)
    if bits_per_weight is not None:
        allowed = [state for state in front if state[0] <= bits_per_weight * total * (1 + 1e-9)]
        if not allowed:
            raise UserError(
                f"no choice of bits is as small as {bits_per_weight} bits a weight: the least is {front[0][0] / total:.3f}",
                "ask for more bits, or offer fewer",
            )
        return _mix(units, allowed[-1], total)
    assert loss is not None
    good = [state for state in front if state[1] <= loss * (1 + 1e-9)]
    if not good:
        raise UserError(
            f"no choice of bits has a loss of {loss:g} or less: the least is {front[-1][1]:g}", "allow more, or offer more bits"
        )
    return _mix(units, good[0], total)


_State = tuple[float, float, tuple[int, ...]]
"""Bits in all, loss in all, and the option of each unit so far."""


def _front(units: Sequence[LayerUnit]) -> list[_State]:
    """Return what nothing beats, from the smallest to the one of least loss."""
    states: list[_State] = [(0.0, 0.0, ())]
    for unit in units:
        sizes = [option.bits_per_weight * unit.weights for option in unit.options]
        grown = [
            (bits + sizes[index], loss + option.loss, (*chosen, index))
            for bits, loss, chosen in states
            for index, option in enumerate(unit.options)
        ]
        states = _thinned(_unbeaten(grown))
    return states


def _unbeaten(states: list[_State]) -> list[_State]:
    kept: list[_State] = []
    for state in sorted(states, key=lambda item: (item[0], item[1])):
        if not kept or state[1] < kept[-1][1]:
            kept.append(state)
    return kept


def _thinned(states: list[_State]) -> list[_State]:
    """Keep the largest, which is the best, of each range of size, and the smallest of all."""
    if len(states) <= _STATES:
        return states
    least, width = states[0][0], (states[-1][0] - states[0][0]) / (_STATES - 1)
    best = {int((state[0] - least) / width): state for state in states}
    return sorted({states[0], *best.values()}, key=lambda item: item[0])


def _mix(units: Sequence[LayerUnit], state: _State, total: int) -> Mix:
    bits, loss, chosen = state
    picked = [(unit, unit.options[index]) for unit, index in zip(units, chosen, strict=True)]
    layers = tuple((name, option.bits, option.group_size) for unit, option in picked for name in unit.layers)
    return Mix(layers, bits / total, loss)
