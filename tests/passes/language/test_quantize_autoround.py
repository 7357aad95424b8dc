"""AutoRound's fields; what it computes is tested with the tuning."""

from __future__ import annotations

from mopt.model.quantization import Weights
from mopt.passes.language.quantize_autoround import QuantizeAutoRound


def test_it_asks_for_what_the_source_gives() -> None:
    assert QuantizeAutoRound.needs_reference
    assert QuantizeAutoRound(group_size=32).weights == Weights(bits=4, group_size=32)
    assert QuantizeAutoRound(awq=True).algorithm == "awq+autoround"
    assert "auto-round" in QuantizeAutoRound.libraries
