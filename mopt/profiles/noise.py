"""How quiet the machine was while something was measured."""

from __future__ import annotations

__all__ = ["NoiseMonitor"]

import contextlib
import os
from pathlib import Path


class NoiseMonitor:
    """Look at the machine at the start and at the end of a measurement."""

    def __init__(self) -> None:
        self._ticks = _ticks()
        self._clocks = _clocks()

    def summary(self) -> dict[str, float]:
        """Return what tells whether timings can be trusted.

        ``load_1m`` is the number of processes that wanted to run in the last minute; ``stolen`` the share of the time that
        the hypervisor gave to others; ``clock_low`` and ``clock_high`` the slowest and the fastest core in GHz.
        """
        found: dict[str, float] = {}
        with contextlib.suppress(OSError, AttributeError):
            found["load_1m"] = round(os.getloadavg()[0], 2)
        now = _ticks()
        if now and self._ticks and now[0] > self._ticks[0]:
            found["stolen"] = round((now[1] - self._ticks[1]) / (now[0] - self._ticks[0]), 4)
        if clocks := [*self._clocks, *_clocks()]:
            found["clock_low"], found["clock_high"] = min(clocks), max(clocks)
        return found


def _ticks() -> tuple[int, int] | None:
    """All ticks of all cores so far, and those that were stolen."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[7]
    return None


def _clocks() -> list[float]:
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return [round(float(line.split(":")[1]) / 1e3, 3) for line in lines if line.startswith("cpu MHz")]
    return []
