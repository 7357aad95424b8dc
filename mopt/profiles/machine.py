"""The machine that measures: what it can do."""

from __future__ import annotations

__all__ = ["FEATURES", "Bandwidth", "Cache", "caches", "clock_ghz", "detect", "memory_bandwidth", "per_cycle"]

import contextlib
import dataclasses
import platform
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.records.measurement import Machine

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instruction set extensions that change which candidate wins, by their names in ``/proc/cpuinfo``."""
_CPUS = Path("/sys/devices/system/cpu")
_CONTAINER = Path("/sys/fs/cgroup")
"""Where the limits of the container are that this runs in; psutil sees those of the machine."""
_STEPS = 400_000
"""Of the chain that the clock is measured with: a third of a millisecond, shorter than a turn of the scheduler."""
_LOOKS = 40
"""The fastest counts, so one undisturbed look is enough."""
_COPY_SECONDS = 0.5
_SMALLEST_COPY = 64 << 20
"""Bytes: more than a cache holds, for where the system does not tell how large they are."""
_PIECE = 8 << 20
"""Bytes that a thread copies at a time: a millisecond or two."""


@dataclasses.dataclass(frozen=True)
class Cache:
    """A data cache of the first core.

    Attributes:
        level: 1 for the nearest.
        bytes: Its size.
        shared_by: How many logical processors use it together.
    """

    level: int
    bytes: int
    shared_by: int


@dataclasses.dataclass(frozen=True)
class Bandwidth:
    """Bytes per second that are read or written in main memory, by one thread and by all cores."""

    one: float
    all: float


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


def caches() -> tuple[Cache, ...]:
    """Return the data caches, nearest first; none where the system does not tell."""
    data_caches = []
    for folder in (_CPUS / "cpu0" / "cache").glob("index*"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if (folder / "type").read_text().strip() != "Instruction":
                size = (folder / "size").read_text().strip()
                number = int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[size[-1]]
                shared = _count((folder / "shared_cpu_list").read_text())
                data_caches.append(Cache(int((folder / "level").read_text()), number, shared))
    return tuple(sorted(data_caches, key=lambda cache: cache.level))


def _count(listed: str) -> int:
    """Number of processors in a list such as ``0-3,8``."""
    ranges = [part.partition("-") for part in listed.strip().split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def clock_ghz() -> float | None:
    """Clock frequency of a core that is busy, in GHz; None where it can be neither measured nor read.

    A virtual machine names the nominal frequency, from which the real one is often a third away. So it is measured: a chain of
    alternating exclusive-or and addition takes one cycle a link on every CPU, since each waits for the one before.
    """
    with contextlib.suppress(ImportError):
        return _measured_clock()
    return _named_clock()


def _measured_clock() -> float:
    import numba
    import numpy as np

    @numba.njit
    def chain(value, flip, step, count):  # type: ignore[no-untyped-def]
        for _ in range(count):
            value = (value ^ flip) + step
        return value

    start, flip, step = np.uint64(1), np.uint64(0x5DEECE66D), np.uint64(0x9E3779B9)
    chain(start, flip, step, 1)
    best = float("inf")
    for _ in range(_LOOKS):
        began = time.perf_counter()
        chain(start, flip, step, _STEPS)
        best = min(best, time.perf_counter() - began)
    return 2 * _STEPS / best / 1e9


def _named_clock() -> float | None:
    import psutil

    with contextlib.suppress(AttributeError, NotImplementedError, OSError, RuntimeError):  # where a system has no such figure
        named = psutil.cpu_freq()
        return float(named.max or named.current) / 1e3 or None
    return None


def memory_bandwidth(seconds: float = _COPY_SECONDS) -> Bandwidth:
    """Measure copying of arrays that no cache holds, for ``seconds`` with one thread and with one for each core.

    A copy counts as its bytes read and written. The arrays are copied piece by piece, and the fastest piece counts: a turn of
    the scheduler for somebody else says nothing about the memory.
    """
    import numpy as np

    largest = max((cache.bytes for cache in caches()), default=0)
    size = min(max(_SMALLEST_COPY, 2 * largest), _memory() // 16)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    cores = _cores()
    one_thread = _fastest_copy(source, target, 1, seconds)
    return Bandwidth(one_thread, max(one_thread, _fastest_copy(source, target, cores, seconds)) if cores > 1 else one_thread)


def _fastest_copy(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], threads: int, seconds: float) -> float:
    """Bytes per second of the fastest piece; each thread copies a part of it."""
    import numpy as np

    step = min(len(source), _PIECE * threads)
    best, end, rounds = float("inf"), time.perf_counter() + seconds, 0
    with ThreadPoolExecutor(threads) as pool:
        while rounds < 2 or time.perf_counter() < end:
            rounds += 1
            for start in range(0, len(source) - step + 1, step):
                pieces = (np.array_split(array[start : start + step], threads) for array in (target, source))
                began = time.perf_counter()
                list(pool.map(np.copyto, *pieces))
                best = min(best, time.perf_counter() - began)
    return 2 * step / best


def per_cycle(isa: Collection[str]) -> dict[str, int]:
    """Most multiplications and additions that one core does in a cycle, by arithmetic, as far as instruction sets tell.

    It is a table of what servers have: two units of the widest registers on x86, four (two without SVE) of 128 bits on ARM, and
    one AMX unit. Without an instruction for dot products an 8-bit product takes two instructions. BF16 and FP16 that it has no
    instruction for are computed in FP32.
    """
    have = set(isa)
    if "asimd" in have:
        fp32 = 32 if "sve" in have else 16
        int8 = 8 * fp32 if "i8mm" in have else 4 * fp32 if "asimddp" in have else fp32
        return {"fp32": fp32, "fp16": 2 * fp32, "bf16": 4 * fp32 if "bf16" in have else fp32, "int8": int8}
    fp32 = 64 if "avx512f" in have else 32 if "avx2" in have else 8
    int8 = 4 * fp32 if {"avx512_vnni", "avx_vnni"} & have else 2 * fp32
    bf16 = 2 * fp32 if "avx512_bf16" in have else fp32
    if "amx_int8" in have:
        int8 = 2048
    if "amx_bf16" in have:
        bf16 = 1024
    return {"fp32": fp32, "fp16": fp32, "bf16": bf16, "int8": int8}


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
    import psutil

    bound = hasattr(psutil.Process, "cpu_affinity")  # macOS binds no process to cores
    available = len(psutil.Process().cpu_affinity()) if bound else psutil.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = (_CONTAINER / "cpu.max").read_text().split()
        available = min(available, max(1, int(int(quota) / int(period))))
    return available


def _memory() -> int:
    import psutil

    total = int(psutil.virtual_memory().total)
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int((_CONTAINER / "memory.max").read_text()))
    return total
