"""How fast this machine is."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")


def test_rates_are_those_of_a_machine() -> None:
    from mopt.passes.language._rates import measure_rates

    rates = measure_rates()
    assert 1e-13 < rates["product"] < 1e-8
    assert rates["round"] < rates["search"]
    assert rates["libraries"] > 50e6
    assert min(rates.values()) >= 0
