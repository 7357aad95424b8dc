"""What long work tells the caller while it runs, and how long it will still take."""

from __future__ import annotations

__all__ = ["Countdown", "Progress", "Silent", "Stopwatch"]

import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

_OVERDUE = 0.2
"""Share of its time so far that a stage still takes when it has used up what was expected."""
_ENOUGH_STEPS = 3
"""Of a stage that nobody expected: with fewer in all, their number says nothing of the time."""


class Progress(Protocol):
    """Receives the stages of a build; the command line draws them, Python ignores them by default."""

    def stage(self, title: str, total: int) -> None:
        """A stage of at most ``total`` steps begins."""

    def step(self, note: str = "") -> None:
        """One step of the stage is done; ``note`` is what came of it, when that is worth a line."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Stages to come and the seconds that each will take, by title; they replace what was expected of them before."""

    def note(self, text: str) -> None:
        """Something happened that is worth a line, between two steps."""


class Silent:
    """Ignores everything."""

    def stage(self, title: str, total: int) -> None:
        """Ignore it."""

    def step(self, note: str = "") -> None:
        """Ignore it."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""


class Stopwatch:
    """Passes everything on, and notes what each stage takes.

    Args:
        progress: What is told.
        clock: Seconds since some moment.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._title = ""
        self._began = clock()

    def stage(self, title: str, total: int) -> None:
        """A stage begins, and the one before it is over."""
        self._seconds = self.seconds
        self._title, self._began = title, self._clock()
        self._progress.stage(title, total)

    def step(self, note: str = "") -> None:
        """Pass it on."""
        self._progress.step(note)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Pass it on."""
        self._progress.expect(seconds)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._progress.note(text)

    @property
    def seconds(self) -> dict[str, float]:
        """What each stage has taken so far, by title, in their order."""
        if not self._title:
            return dict(self._seconds)
        running = self._seconds.get(self._title, 0.0) + self._clock() - self._began
        return {**self._seconds, self._title: running}


class Countdown:
    """How long all stages that are known of will still take.

    What is left of the running stage is between what was expected of it and what its steps took so far, the nearer to the
    latter the more of them are done; what stages to come were expected to take is added. Where stages are expected, and the
    running one is none of them, nothing is known yet.

    Args:
        clock: Seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._to_come: dict[str, float] = {}
        self._expected: float | None = None
        self._title = ""
        self._total = self._done = 0
        self._began = self._last_step = clock()

    @property
    def done(self) -> int:
        """Steps of the running stage that are done; never more than there are."""
        return min(self._done, self._total)

    @property
    def total(self) -> int:
        """Steps of the running stage."""
        return self._total

    @property
    def title(self) -> str:
        """Of the running stage."""
        return self._title

    def stage(self, title: str, total: int) -> None:
        """A stage begins, and the one before it is over."""
        self._title, self._total, self._done = title, total, 0
        self._began = self._last_step = self._clock()
        self._expected = self._to_come.pop(title, None)

    def step(self) -> None:
        """One step of it is done."""
        self._done += 1
        self._last_step = self._clock()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Stages to come are expected to take so long; 0 for one that will not come."""
        self._to_come |= seconds

    def remaining(self) -> float | None:
        """Return seconds, or None while nothing is known."""
        stage = self._remaining_of_stage()
        return None if stage is None else stage + sum(self._to_come.values())

    def _remaining_of_stage(self) -> float | None:
        share = self.done / self._total if self._total else 1.0
        elapsed = self._clock() - self._began
        if self._expected is None and (self._to_come or not share or self._total < _ENOUGH_STEPS):
            return None
        # The running step counts once it takes longer than the mean of those that are done.
        each = max((self._last_step - self._began) / max(1, self.done), elapsed / (1 + self.done))
        by_steps = self._total * each
        seen = math.sqrt(share)  # a few steps tell more than their share: what slows them slows all
        whole = by_steps if self._expected is None else (1 - seen) * self._expected + seen * by_steps
        return 0.0 if share == 1 else max(whole - elapsed, _OVERDUE * (1 - share) * elapsed)
