"""An open-loop load: what came of it, and the search for the largest rate that holds."""

from __future__ import annotations

__all__ = ["LESS", "TEST_SECONDS", "find_largest", "load_test", "requests_for", "summarize_load"]

from collections.abc import Callable
from typing import TYPE_CHECKING

from mopt.errors import UserError
from mopt.profiles.measure import percentile
from mopt.progress import Progress
from mopt.records.benchmark import LoadTest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TEST_SECONDS = 10.0
"""About how long one load test takes by default."""
LESS = "look at the server's log, or load it less"
_CLOSE = 0.03
"""Share of a rate to which the largest one is found."""
_STEP = 1.15
"""First step away from the guess, as a factor; each is the square of the one before."""
_MOST_TESTS = 12
_FEWEST_REQUESTS = 1_000
"""A p99 of fewer rests on less than ten requests."""
_MOST_REQUESTS = 30_000
_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}


def summarize_load(
    rate: float,
    latencies: npt.NDArray[np.float64],
    seconds: float,
    **more: object,
) -> LoadTest:
    """Summarize latencies in ms; NaN is a request without an answer."""
    import numpy as np

    answered = latencies[~np.isnan(latencies)]
    if not len(answered):
        raise UserError("not one request was answered", LESS)
    values = answered.tolist()
    percentiles = {name: percentile(values, share) for name, share in _SHARES.items()}
    return LoadTest.model_validate(
        {
            "rate": rate,
            "achieved": len(answered) / seconds,
            "requests": len(latencies),
            "failed": len(latencies) - len(answered),
            **{name: estimate.model_dump() for name, estimate in percentiles.items()},
            **more,
        }
    )


def requests_for(rate: float, seconds: float) -> int:
    """Requests of a test: enough for a p99, and not many more than its time allows."""
    return int(min(_MOST_REQUESTS, max(_FEWEST_REQUESTS, rate * seconds)))


def load_test(
    test: Callable[[float], LoadTest], rate: float | None, p99_ms: float | None, guess: float, progress: Progress
) -> tuple[tuple[LoadTest, ...], float | None]:
    """Test a rate, if one is given, and look for the largest one that holds, if there is a limit; return both."""
    progress.stage("under load", (rate is not None) + (_MOST_TESTS if p99_ms is not None else 0))
    tests: list[LoadTest] = []

    def run_test(tested_rate: float) -> LoadTest:
        tests.append(test(tested_rate))
        progress.step(f"{tested_rate:.4g} requests/s: p99 {tests[-1].p99.value:.2f} ms")
        return tests[-1]

    if rate is not None:
        run_test(rate)
    largest = find_largest(run_test, guess, p99_ms) if p99_ms is not None else None
    return tuple(tests), largest


def find_largest(test: Callable[[float], LoadTest], guess: float, p99_ms: float) -> float | None:
    """Search for the largest rate that holds, from a guess; None when not even a hundredth of the guess does.

    The guess is bracketed by steps that grow, then the bracket is halved until it is narrow.
    """
    tests = 0

    def holds(rate: float) -> bool:
        nonlocal tests
        tests += 1
        return test(rate).holds(p99_ms)

    low, high, step = 0.0, float("inf"), _STEP
    rate = guess
    while tests < _MOST_TESTS and rate > guess / 100:
        if holds(rate):
            low = max(low, rate)
        else:
            high = min(high, rate)
        if low and high < float("inf"):
            if high / low <= 1 + _CLOSE:
                break
            rate = (low * high) ** 0.5
        else:
            rate = low * step if low else high / step
            step *= step
    return low or None
