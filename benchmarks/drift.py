"""How often ``mopt drift`` raises a false alarm over many looks, and how many requests it takes to find a drift.

python -m benchmarks.drift false-alarms
python -m benchmarks.drift power
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

from mopt.sketches.features import FeatureKey
from mopt.sketches.sequential import evidence, kept_starts
from mopt.sketches.sketch import bin_counts, sketch_feature

Values = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Values]

KEY = FeatureKey("input", "x", "value")
LOOKS, REQUESTS, RUNS, ALPHA = 60, 50, 300, 0.05
POWER_ALPHA, POWER_RUNS, POWER_REQUESTS, MOST = 0.01 / 20, 100, 20, 5000
"""One of twenty numbers at a confidence of 0.99, looked at after every twenty requests."""


def gamma(random: np.random.Generator, size: int) -> Values:
    """A skewed distribution."""
    return random.gamma(2.0, size=size)


def counts_of_few(random: np.random.Generator, size: int) -> Values:
    """A distribution in which most values are equal."""
    return random.poisson(0.7, size).astype(np.float64)


def normal(random: np.random.Generator, size: int) -> Values:
    """The standard normal distribution."""
    return random.standard_normal(size)


def looks(random: np.random.Generator, samples: Values, draw: Draw, requests: int, most: int) -> Iterator[tuple[float, Values]]:
    """Yield the logarithm of the evidence after each look, with all requests so far."""
    sketch = sketch_feature(KEY, samples, random)
    counts, starts, seen = [0] * len(sketch.weights), {}, np.empty(0)
    for index in range(most):
        starts[index] = counts
        starts = {start: starts[start] for start in kept_starts(starts, index + 1)}
        values = draw(random, requests)
        counts = [old + new for old, new in zip(counts, bin_counts(sketch, values, random), strict=True)]
        seen = np.concatenate([seen, values])
        yield evidence(sketch.weights, counts, starts, index + 1).log, seen


def false_alarms() -> None:
    """Print the share of runs without any drift in which each test says drift at some look."""
    print(f"{LOOKS} looks of {REQUESTS} requests, {RUNS} runs, allowed {ALPHA:.0%}")
    print("samples  distribution    mopt drift    Kolmogorov-Smirnov at each look")
    for count in (50, 300, 1000):
        for draw in (gamma, counts_of_few):
            random, alarms = np.random.default_rng(count), [0, 0]
            for _ in range(RUNS):
                samples = draw(random, count)
                found = [False, False]
                for log, seen in looks(random, samples, draw, REQUESTS, LOOKS):
                    found[0] |= log >= math.log(1 / ALPHA)
                    found[1] |= not found[1] and stats.ks_2samp(samples, seen, method="asymp").pvalue < ALPHA
                alarms = [total + one for total, one in zip(alarms, found, strict=True)]
            print(f"{count:7}  {draw.__name__:14}  {alarms[0] / RUNS:10.1%}  {alarms[1] / RUNS:10.1%}", flush=True)


def power() -> None:
    """Print how many requests it takes until a drift is found, for several kinds and sizes."""
    changes: dict[str, Callable[[Values], Values]] = {
        **{f"mean + {shift:g} sd": functools.partial(np.add, shift) for shift in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)},
        **{f"spread x {factor:g}": functools.partial(np.multiply, factor) for factor in (1.2, 1.5, 2.0)},
        "one in ten is 6": lambda values: np.where(np.arange(len(values)) % 10 == 0, 6.0, values),
    }
    print(f"one of 20 numbers, confidence 0.99, looks of {POWER_REQUESTS} requests, at most {MOST}; {POWER_RUNS} runs")
    print("samples  drift              found   median   nine of ten")
    for count in (300, 1000):
        for name, change in changes.items():
            random = np.random.default_rng(1)
            needed = []
            for _ in range(POWER_RUNS):
                draw: Draw = lambda random, size, change=change: change(normal(random, size))  # noqa: E731
                samples = normal(random, count)
                alarm = (len(seen) for log, seen in looks(random, samples, draw, POWER_REQUESTS, MOST // POWER_REQUESTS)
                         if log >= math.log(1 / POWER_ALPHA))  # fmt: skip
                needed.append(next(alarm, math.inf))
            found = sum(map(math.isfinite, needed)) / POWER_RUNS
            ordered = sorted(needed)
            print(
                f"{count:7}  {name:16} {found:7.0%}  {statistics.median(ordered):7.0f}  {ordered[int(0.9 * POWER_RUNS)]:7.0f}",
                flush=True,
            )


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("false-alarms", "power"))
    {"false-alarms": false_alarms, "power": power}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
