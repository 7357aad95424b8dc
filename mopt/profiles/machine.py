"""The machine that measures: what it can do, and how quiet it is."""

from __future__ import annotations

__all__ = ["detect", "noise"]

import contextlib
import os
import platform
import sys
from pathlib import Path

from mopt.artifacts.manifest import Machine

FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instruction set extensions that change which candidate wins, by their names in ``/proc/cpuinfo``."""


def detect() -> Machine:
    """Describe this machine; limits of a container count as the machine's."""
    cpu, flags = _cpu()
    return Machine(
        cpu=cpu,
        isa=tuple(feature for feature in FEATURES if feature in flags),
        cores=_cores(),
        memory_bytes=_memory(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def noise() -> dict[str, float]:
    """Return what tells whether timings can be trusted: load of the last minute, and the share of time stolen so far."""
    found = {"load_1m": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        found["stolen"] = round(ticks[7] / max(1, sum(ticks)), 4)
    return found


def _cpu() -> tuple[str, frozenset[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or f"{platform.machine()} part {fields.get('CPU part', '?')}"
    if {"cpu family", "model"} <= fields.keys():
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    return name, frozenset((fields.get("flags") or fields.get("Features") or "").split())


def _cores() -> int:
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        available = min(available, max(1, int(int(quota) / int(period))))
    return available


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total
