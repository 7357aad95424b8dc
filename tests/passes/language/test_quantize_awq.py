"""AWQ's fields; what it computes is tested with the scaling."""

from __future__ import annotations

from mopt.model.quantization import Weights
from mopt.passes.language.quantize_awq import QuantizeAWQ


def test_it_has_zero_points_as_its_format_does() -> None:
    assert QuantizeAWQ().weights == Weights(bits=4, group_size=128, symmetric=False)
    assert QuantizeAWQ().algorithm == "awq"
    assert QuantizeAWQ().needs_windows
