"""How much memory a process holds, as its system tells it."""

from __future__ import annotations

__all__ = ["peak_memory", "resident_memory"]

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_PROC = Path("/proc")


def peak_memory(pid: int) -> int:
    """Largest resident set of a process so far, in bytes; 0 where the system does not tell.

    macOS tells it to the process itself alone. psutil has it for Windows alone, so Linux is asked directly: there ``ru_maxrss``
    is no substitute, since it also counts the process that started this one.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import psutil

    with contextlib.suppress(psutil.Error, AttributeError):
        return int(psutil.Process(pid).memory_info().peak_wset)
    return _own_peak() if pid == os.getpid() else 0


def _own_peak() -> int:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_memory(process: psutil.Process) -> int:
    """Resident set of a process now, in bytes; 0 when it has ended."""
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
