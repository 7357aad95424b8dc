"""When requests arrive: evenly, at random, in bursts, or as they once did.

Which of them a figure is for decides more than the model: at 79 % load the p99 of the same server is 33 ms for even gaps,
47 ms for a Poisson process, and seconds for bursts.
"""

from __future__ import annotations

__all__ = ["Arrivals", "parse_arrivals", "read_trace"]

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mopt.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Times = npt.NDArray[np.float64]

_FEWEST_IN_TRACE = 100
"""A p99 takes a hundred."""


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """A model of the moments at which requests arrive.

    Attributes:
        kind: ``poisson`` (many independent callers), ``constant`` (one metronome), ``bursty`` or ``trace``.
        burst: Rate within a burst over the mean rate.
        burst_share: Share of the time that is a burst; ``burst * burst_share`` is at most 1.
        burst_seconds: Mean length of a burst.
        trace: Timestamps in ms from the first one, ascending; their own rate is scaled to the one that is asked for.
    """

    kind: Literal["poisson", "constant", "bursty", "trace"] = "poisson"
    burst: float = 3.0
    burst_share: float = 0.1
    burst_seconds: float = 1.0
    trace: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "bursty" and not (self.burst > 1 and 0 < self.burst * self.burst_share <= 1 and self.burst_seconds > 0):
            raise UserError(
                f"bursts of {self.burst:g} times the rate for {self.burst_share:.0%} of the time are more than all requests",
                "make burst * burst_share at most 1, and burst more than 1",
            )
        if self.kind == "trace" and len(self.trace) < _FEWEST_IN_TRACE:
            raise UserError(f"a trace of {len(self.trace)} requests says nothing about a p99", "give at least 100 timestamps")

    def __str__(self) -> str:
        match self.kind:
            case "bursty":
                length = f"{self.burst_seconds:g} s long, {self.burst_share:.0%} of the time"
                return f"bursts of {self.burst:g} times the rate, {length}"
            case "trace":
                return f"a trace of {len(self.trace):,} requests"
            case "constant":
                return "constant gaps"
        return "Poisson arrivals"

    @property
    def own_rate(self) -> float | None:
        """Requests per second of a trace; None for a model of arrivals."""
        span = self.trace[-1] - self.trace[0] if self.trace else 0.0
        return (len(self.trace) - 1) * 1e3 / span if span else None

    @property
    def independent(self) -> bool:
        """Whether a random share of the requests is again such a process, so that one replica stands for all."""
        return self.kind == "poisson"

    def times(self, rate: float, count: int, rng: np.random.Generator) -> Times:
        """Return ``count`` moments in ms, ascending, at a mean rate (requests per second).

        A trace is repeated from its beginning when it is shorter, and cut when it is longer.
        """
        import numpy as np

        gap = 1e3 / rate
        match self.kind:
            case "constant":
                return np.arange(1, count + 1, dtype=np.float64) * gap
            case "bursty":
                return self._bursts(rate / 1e3, count, rng)
            case "trace":
                return self._repeated(count, gap)
        return np.cumsum(rng.exponential(gap, count))

    def _bursts(self, rate: float, count: int, rng: np.random.Generator) -> Times:
        """A Markov-modulated Poisson process of two states, stationary from the start (Fischer and Meier-Hellstern, 1993)."""
        import numpy as np

        share, high = self.burst_share, rate * self.burst
        low = max(0.0, (rate - share * high) / (1 - share))
        busy, calm = self.burst_seconds * 1e3, self.burst_seconds * 1e3 * (1 - share) / share
        chunks: list[Times] = []
        start, total = 0.0, 0
        while total < count:
            cycles = 1 + int(1.2 * (count - total) / (rate * (busy + calm)))
            lengths = np.empty(2 * cycles)
            lengths[0::2], lengths[1::2] = rng.exponential(calm, cycles), rng.exponential(busy, cycles)
            rates = np.tile([low, high], cycles)
            begins = start + np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
            each = rng.poisson(rates * lengths)
            moments = np.repeat(begins, each) + rng.random(int(each.sum())) * np.repeat(lengths, each)
            chunks.append(np.sort(moments))
            total += len(moments)
            start = float(begins[-1] + lengths[-1])
        return np.concatenate(chunks)[:count]

    def _repeated(self, count: int, gap: float) -> Times:
        import numpy as np

        trace = np.asarray(self.trace, dtype=np.float64)
        trace_gap = float(trace[-1] - trace[0]) / (len(trace) - 1)
        if trace_gap <= 0:
            raise UserError("all timestamps of the trace are the same", "give the moments at which requests arrived")
        scaled = (trace - trace[0]) * (gap / trace_gap) + gap
        rounds = -(-count // len(trace))
        shifts = np.arange(rounds, dtype=np.float64) * (scaled[-1])
        repeated: Times = (scaled[None, :] + shifts[:, None]).ravel()[:count]
        return repeated


def parse_arrivals(text: str) -> Arrivals:
    """Return what a word or a path means.

    Raises:
        UserError: When it is neither ``poisson``, ``constant`` or ``bursty`` nor a readable trace.
    """
    match text:
        case "poisson" | "constant" | "bursty":
            return Arrivals(text)
    if not Path(text).is_file():
        raise UserError(f"unknown arrivals: {text}", "choose poisson, constant or bursty, or give a file of timestamps")
    return read_trace(Path(text))


def read_trace(path: Path) -> Arrivals:
    """Read a file with one timestamp in seconds on each line (or the first column of a CSV file).

    Raises:
        UserError: When it cannot be read, holds no numbers, or too few.
    """
    import numpy as np

    hint = "write one timestamp in seconds on each line"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(f"cannot read the trace {path}: {reason}", hint) from None
    first = [line.split(",")[0].strip() for line in lines if line.strip()]
    try:
        float(first[0]) if first else None
    except ValueError:
        first = first[1:]
    try:
        seconds = np.sort(np.array(first, dtype=np.float64))
    except ValueError as error:
        raise UserError(f"{path}: {error}", hint) from None
    if not np.isfinite(seconds).all():
        raise UserError(f"{path} has timestamps that are not finite", hint)
    return Arrivals("trace", trace=tuple(((seconds - seconds[:1]) * 1e3).tolist()))
