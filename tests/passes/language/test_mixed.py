"""The knapsack against all combinations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.passes.language import _mixed
from mopt.passes.language._mixed import LayerOption, LayerUnit, choose_mix


def _units(seed: int, count: int) -> list[LayerUnit]:
    random = np.random.default_rng(seed)
    return [
        LayerUnit(
            (f"layer{index}",),
            int(random.integers(1, 9)) * 64,
            tuple(
                LayerOption(bits, 64, bits + 0.25, float(random.random()) / bits if bits < 16 else 0.0) for bits in (4, 8, 16)
            ),
        )
        for index in range(count)
    ]


def _all(units: list[LayerUnit]) -> list[tuple[float, float]]:
    total = sum(unit.weights for unit in units)
    return [
        (sum(o.bits_per_weight * u.weights for o, u in zip(chosen, units, strict=True)) / total, sum(o.loss for o in chosen))
        for chosen in itertools.product(*(unit.options for unit in units))
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [4.25, 5.0, 7.3, 12.0])
def test_the_loss_is_the_least_of_all_combinations_of_that_size(seed: int, size: float) -> None:
    units = _units(seed, 6)
    mix = choose_mix(units, bits_per_weight=size)
    assert mix.bits_per_weight <= size * (1 + 1e-9)
    assert mix.loss == pytest.approx(min(loss for bits, loss in _all(units) if bits <= size * (1 + 1e-9)))


@pytest.mark.parametrize("limit", [0.0, 0.05, 0.2, 0.6])
def test_the_size_is_the_least_of_all_combinations_of_that_loss(limit: float) -> None:
    units = _units(7, 6)
    mix = choose_mix(units, loss=limit)
    assert mix.loss <= limit * (1 + 1e-9)
    assert mix.bits_per_weight == pytest.approx(min(bits for bits, loss in _all(units) if loss <= limit * (1 + 1e-9)))


def test_what_is_returned_adds_up() -> None:
    units = _units(1, 6)
    mix = choose_mix(units, bits_per_weight=6.0)
    chosen = {name: bits for name, bits, _ in mix.layers}
    options = [next(option for option in unit.options if option.bits == chosen[unit.layers[0]]) for unit in units]
    assert mix.loss == pytest.approx(sum(option.loss for option in options))
    total = sum(unit.weights for unit in units)
    weighted = sum(option.bits_per_weight * unit.weights for option, unit in zip(options, units, strict=True))
    assert mix.bits_per_weight == pytest.approx(weighted / total)


def test_thinning_keeps_to_the_limit_and_loses_little(monkeypatch: pytest.MonkeyPatch) -> None:
    units = _units(3, 8)
    exact = choose_mix(units, bits_per_weight=6.0)
    monkeypatch.setattr(_mixed, "_STATES", 50)
    thinned = choose_mix(units, bits_per_weight=6.0)
    assert thinned.bits_per_weight <= 6.0 * (1 + 1e-9)
    assert exact.loss <= thinned.loss <= exact.loss * 1.5


def test_layers_of_a_unit_are_held_alike() -> None:
    unit = LayerUnit(("q", "k"), 64, (LayerOption(4, 32, 4.5, 1.0), LayerOption(16, 0, 16.0, 0.0)))
    assert choose_mix([unit], bits_per_weight=5.0).layers == (("q", 4, 32), ("k", 4, 32))


@pytest.mark.parametrize("limits", [{}, {"bits_per_weight": 5.0, "loss": 0.1}, {"bits_per_weight": 3.0}, {"loss": -1.0}])
def test_a_limit_that_nothing_keeps_to_is_the_users_mistake(limits: dict[str, float]) -> None:
    with pytest.raises(UserError):
        choose_mix(_units(0, 3), **limits)
