"""How quiet the machine was while something was measured."""

from __future__ import annotations

__all__ = ["NoiseMonitor"]

import contextlib
import os


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
        figures: dict[str, float] = {}
        with contextlib.suppress(OSError, AttributeError):  # not psutil's: on Windows it starts at 0, which says quiet
            figures["load_1m"] = round(os.getloadavg()[0], 2)
        now = _ticks()
        if now and self._ticks and now[0] > self._ticks[0]:
            figures["stolen"] = round((now[1] - self._ticks[1]) / (now[0] - self._ticks[0]), 4)
        if clocks := [*self._clocks, *_clocks()]:
            figures["clock_low"], figures["clock_high"] = min(clocks), max(clocks)
        return figures


def _ticks() -> tuple[float, float] | None:
    """Seconds of all cores so far, and those that were stolen; None where a system does not tell of these."""
    import psutil

    times = psutil.cpu_times()._asdict()
    # A guest's time is a part of user's and nice's already.
    total = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return (total, times["steal"]) if "steal" in times else None


def _clocks() -> list[float]:
    """Clocks of all cores in GHz; none where a system does not tell."""
    import psutil

    with contextlib.suppress(AttributeError, NotImplementedError, OSError, RuntimeError):
        return [round(core.current / 1e3, 3) for core in psutil.cpu_freq(percpu=True) if core.current]
    return []
