"""How long a child may take before it counts as hung: derived from what was measured, not guessed.

Two things end the wait. *Time*: what a request should take, from what the same thing took before, times :data:`SLOWER`, and
never less than a floor that covers the way to the child and back. *Idleness*: a process in which no thread computes, reads,
writes or even waits for a core has met a deadlock or waits for nobody; that is noticed long before a time limit that
has to be generous, since nothing was measured yet. A busy machine stretches the first and never looks like the second.
"""

from __future__ import annotations

__all__ = ["MEASURED", "SHORTEST", "STARTING", "Durations", "Pace", "TimeLimit"]

import dataclasses
from collections.abc import Hashable
from typing import Self

SLOWER = 20.0
"""How many times slower than measured anything may be: a machine under load is five to ten times slower."""
SHORTEST = 10.0
"""Seconds that every request may take, whatever was measured."""
STARTING = 30.0
"""The same for what starts a process, imports libraries and loads a model."""
_IDLE = 30.0
_UNMEASURED = 300.0
"""Seconds for what was never measured, beside the size of the model; idleness is noticed before."""
_LONGEST = 86400.0
"""Seconds that anything may take: what follows from inputs a million times as large as those before is no time to wait for."""
_BYTES_PER_SECOND = 1e6
"""Of a model that is loaded, or compiled by a runtime, for the first time: slower than any that we have seen."""


@dataclasses.dataclass(frozen=True)
class TimeLimit:
    """What ends the wait for a child.

    Attributes:
        seconds: After which it counts as hung, whatever it does.
        idle_seconds: After which it counts as hung when it does nothing; infinity for a child that may wait for others.
    """

    seconds: float
    idle_seconds: float = _IDLE

    @classmethod
    def from_expected(cls, expected: float, *, planned: float = 0.0, at_least: float = SHORTEST) -> Self:
        """Return the limit for what should take ``expected`` seconds.

        Args:
            expected: As measured before; on a busy machine it may be :data:`SLOWER` times that.
            planned: Seconds that the clock decides, however fast the machine is.
            at_least: Seconds that are added to it.
        """
        return cls(min(planned + at_least + SLOWER * expected, _LONGEST))

    @classmethod
    def from_size(cls, size_bytes: int) -> Self:
        """Return the limit for the first work on a model of this size, of which nothing is known yet."""
        return cls(min(_UNMEASURED + size_bytes / _BYTES_PER_SECOND, _LONGEST))

    def within(self, seconds: float) -> TimeLimit:
        """Return the same, no longer than ``seconds``."""
        return dataclasses.replace(self, seconds=min(self.seconds, seconds))


class Durations:
    """What took how long in this process, for whoever does the same again."""

    def __init__(self) -> None:
        self._longest: dict[Hashable, float] = {}

    def note(self, what: Hashable, seconds: float) -> None:
        """Note what it took once more; the longest counts."""
        self._longest[what] = max(seconds, self._longest.get(what, 0.0))

    def limit(self, what: Hashable, otherwise: TimeLimit) -> TimeLimit:
        """Return the limit for doing it again; ``otherwise`` when it was never done."""
        if what not in self._longest:
            return otherwise
        return TimeLimit.from_expected(self._longest[what], at_least=STARTING).within(otherwise.seconds)


MEASURED = Durations()
"""Loading a model in a runtime, and passes: both are done again and again during a build."""


class Pace:
    """How long the inferences of one session take, by the size of their inputs.

    Args:
        unmeasured: The limit as long as nothing is known.
    """

    def __init__(self, unmeasured: TimeLimit) -> None:
        self._unmeasured = unmeasured
        self._size = 0
        self._slowest = self._latest = 0.0

    def note(self, size: int, slowest: float, latest: float | None = None) -> None:
        """Note inferences.

        Args:
            size: Bytes of the inputs.
            slowest: Seconds of the slowest inference, which for a first one includes what the runtime prepares.
            latest: Seconds of a usual one.
        """
        self._size = max(self._size, size, 1)
        self._slowest = max(self._slowest, slowest)
        self._latest = slowest if latest is None else latest

    @property
    def slowest(self) -> float:
        """Seconds of the slowest inference so far."""
        return self._slowest

    def limit(self, size: int, inferences: int = 1, planned: float = 0.0) -> TimeLimit:
        """Return the limit for some inferences with inputs of a size.

        Inputs larger than all before may take more by the square of the ratio, as attention does, and let the runtime prepare
        for new shapes.
        """
        if not self._size:
            return dataclasses.replace(self._unmeasured, seconds=self._unmeasured.seconds + planned)
        growth = max(1.0, size / self._size) ** 2
        expected = growth * (self._slowest + max(0, inferences - 1) * self._latest)
        return TimeLimit.from_expected(expected, planned=planned, at_least=SHORTEST if growth == 1 else STARTING)
