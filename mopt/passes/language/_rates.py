"""How fast this machine does what quantization is made of, measured in a second or two."""

from __future__ import annotations

__all__ = ["measure_rates"]

import time
from collections.abc import Callable

_ROWS, _COLUMNS = 1024, 1024


def measure_rates() -> dict[str, float]:
    """Measure in this process: what one of each unit costs, in seconds, and the memory that the libraries take.

    Returns:
        ``product``: seconds for a multiplication and an addition in a product of float32 matrices; ``round``, ``search`` and
        ``search_zeros``: for a weight rounded with plain scales, with searched ones, and with searched scales and zero points;
        ``column``: for a column of GPTQ and ``column_weight`` for each weight in it; ``read``: for a byte of a weight;
        ``libraries``: bytes resident before any work; ``start``: seconds that importing them took.
    """
    begin = time.perf_counter()
    import psutil
    import torch
    import transformers.models.llama.modeling_llama

    from mopt.model.quantization import Weights
    from mopt.passes.language._rounding import Factor, gptq
    from mopt.passes.language._schemes import encode, find_grid

    assert transformers
    start = time.perf_counter() - begin
    resident = float(psutil.Process().memory_info().rss)
    weight = torch.linspace(-1, 1, _ROWS * _COLUMNS).sin().mul_(0.02).reshape(_ROWS, _COLUMNS)
    inputs = torch.ones(2048, _COLUMNS)

    def rounding(*, search: bool, symmetric: bool) -> float:
        scheme = Weights(symmetric=symmetric)
        seconds = _seconds(lambda: encode(weight, find_grid(weight, scheme, search=search)))
        return seconds / (_ROWS * _COLUMNS)

    def columns(rows: int) -> float:
        part = weight[:rows, :256].clone()
        grid = find_grid(part, Weights())
        factor = Factor(torch.eye(256), torch.arange(256))
        seconds = _seconds(lambda: gptq(part.clone(), factor, grid))
        return seconds / 256

    few, many = columns(64), columns(_ROWS)
    each = max(0.0, (many - few) / (_ROWS - 64))
    return {
        "product": _seconds(lambda: torch.nn.functional.linear(inputs, weight)) / (2048 * weight.numel()),
        "round": rounding(search=False, symmetric=True),
        "search": rounding(search=True, symmetric=True),
        "search_zeros": rounding(search=True, symmetric=False),
        "column": max(0.0, few - 64 * each),
        "column_weight": each,
        "read": _seconds(lambda: bytes(bytearray(8 << 20))) / (8 << 20)
        + _seconds(lambda: weight.bfloat16().float()) / weight.numel(),
        "libraries": resident,
        "start": start,
    }


def _seconds(work: Callable[[], object]) -> float:
    """The median of three, after one that warms up."""
    work()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[1]
