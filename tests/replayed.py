"""What the remaining time would have said during a build that was recorded by ``benchmarks.progress``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from mopt.progress import Countdown

_STEP = 0.5
"""Seconds between two looks."""
_SECONDS = 5.0
"""What the display may be off by in any case: it shows no less."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """What was shown, and what was right, in seconds."""

    at: float
    title: str
    shown: float | None
    left: float

    @property
    def factor(self) -> float:
        """By how much the two differ."""
        assert self.shown is not None
        more, less = max(self.shown, self.left), min(self.shown, self.left)
        return (more + _SECONDS) / (less + _SECONDS)


def replayed(events: Sequence[Sequence[Any]]) -> Iterator[Moment]:
    """Replay ``[seconds, "stage" | "step" | "expect" | "end", ...]``."""
    now = 0.0
    countdown = Countdown(lambda: now)
    end, coming = events[-1][0], list(events)
    for look in range(int(end / _STEP)):
        while coming and coming[0][0] <= look * _STEP:
            now, kind, *values = coming.pop(0)
            if kind == "stage":
                countdown.stage(*values)
            elif kind == "step":
                countdown.step()
            elif kind == "expect":
                countdown.expect(*values)
        now = look * _STEP
        yield Moment(now, countdown.title, countdown.remaining(), end - now)
