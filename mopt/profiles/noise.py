"""What the rest of the machine took while something was measured, and waiting until it takes nothing.

Runtimes do not suffer alike from other work: threads that wait for each other at every operator lose more than those that
meet less often. A ratio of interleaved runs does not cancel that, so a turn that was disturbed does not count. Four things
disturb: threads that are ready and get no core while somebody else runs (the kernel's run-queue wait,
``/proc/PID/task/*/schedstat``; threads of one process wait for each other as well), CPU time of all that is not ours on the
cores that we may use (``/proc/stat``), time that the hypervisor gave to others (steal), and a container's quota (``throttled``
in ``cpu.stat`` of the cgroup, versions 1 and 2).
"""

from __future__ import annotations

__all__ = ["DISTURBED", "CpuCounters", "Disturbance", "NoiseMonitor"]

import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mopt.errors import UserError

DISTURBED = "disturbed: too many turns ran beside other work, so no speed is proven"
"""What is told wherever such figures are shown; what took the time follows."""
_LONGEST_WAIT_SECONDS = 10.0
_SHORTEST_WAIT_SECONDS = 0.4
"""Of one wait for quiet; each that was in vain halves the next."""
_WAIT_VARIABLE = "MOPT_QUIET_WAIT"
_WAIT_SECONDS = 60.0
"""Of all waits and repeated turns together, where nobody says otherwise."""
_WINDOW_SECONDS = 0.2
"""In which it is seen whether the machine is quiet: twenty ticks of ``/proc/stat``."""
_TICK_SECONDS = 0.01
"""What CPU times are counted in on most systems."""
_QUIET_CORES = 0.05
"""What all others may take of the cores, for each core that is free."""
_QUIET_WAIT = 0.03
"""Share of a turn that threads may wait for a core: the kernel's own work takes as much now and then."""
_QUIET_STOLEN = 0.02
_QUIET_THROTTLED = 0.01
_SHOWN_PROCESSES = 3
_PROC = Path("/proc")


@dataclasses.dataclass(frozen=True)
class CpuCounters:
    """Seconds so far, read at one moment.

    Attributes:
        moment: On the monotonic clock.
        ran: CPU time of the processes that are watched and of this one.
        waited: Time that threads of the watched process were ready and had no core; 0 where a system does not tell.
        busy: CPU time of everything, on the cores that this process may use.
        stolen: What the hypervisor gave to others, on the same cores.
        throttled: What the quota of a container stopped.
    """

    moment: float
    ran: float
    waited: float
    busy: float
    stolen: float
    throttled: float

    @classmethod
    def read(cls, pid: int) -> CpuCounters:
        """Read all of them, for a process that is measured."""
        ran, waited = _thread_seconds(pid)
        busy, stolen = _machine_seconds()
        return cls(time.monotonic(), ran + time.process_time(), waited, busy, stolen, _throttled_seconds())


@dataclasses.dataclass(frozen=True)
class Disturbance:
    """What happened beside a measurement, in seconds.

    Attributes:
        seconds: Wall time of the measurement.
        ran: CPU time of what was measured.
        waited: Time that its threads waited for a core.
        others: CPU time of everything else on the cores that it may use. Clock ticks blur it, so that of a turn it may be
            below 0; in a sum of turns that evens out.
        stolen: What the hypervisor gave to others.
        throttled: What a quota stopped.
        turns: How many turns these are.
    """

    seconds: float = 0.0
    ran: float = 0.0
    waited: float = 0.0
    others: float = 0.0
    stolen: float = 0.0
    throttled: float = 0.0
    turns: int = 0

    @classmethod
    def between(cls, before: CpuCounters, after: CpuCounters) -> Disturbance:
        """What happened from one reading to the next."""
        ran = max(0.0, after.ran - before.ran)
        return cls(
            seconds=after.moment - before.moment,
            ran=ran,
            waited=max(0.0, after.waited - before.waited),
            others=after.busy - before.busy - ran,
            stolen=max(0.0, after.stolen - before.stolen),
            throttled=max(0.0, after.throttled - before.throttled),
            turns=1,
        )

    def __add__(self, more: Disturbance) -> Disturbance:
        """Both together."""
        return Disturbance(
            self.seconds + more.seconds, self.ran + more.ran, self.waited + more.waited, self.others + more.others,
            self.stolen + more.stolen, self.throttled + more.throttled, self.turns + more.turns,
        )  # fmt: skip

    @property
    def disturbed(self) -> bool:
        """Whether it was more than a latency can bear, and more than the ticks of the clock can feign in so many turns."""
        if self.seconds <= 0:
            return False
        cores = _cores()
        blur = 2 * _TICK_SECONDS * math.sqrt(max(1.0, cores / 2) * max(1, self.turns))
        free = max(1.0, cores - self.ran / self.seconds)
        others = (self.others - blur) / self.seconds > _QUIET_CORES * free
        stolen = (self.stolen - blur) / self.seconds > _QUIET_STOLEN
        # Threads of one process wait for each other, on a core that they share while another idles. That is no other work, so
        # somebody else must be seen; in a single turn less of him, for to take it again costs little.
        seen = self.others > (blur / 2 if self.turns <= 1 else blur)
        waited = seen and min(self.waited, max(0.0, cores * self.seconds - self.ran)) > _QUIET_WAIT * self.seconds
        return others or stolen or waited or self.throttled > _QUIET_THROTTLED * self.seconds

    def shares(self) -> dict[str, float]:
        """Return cores that others took, and what was waited, stolen and throttled as shares of the wall time."""
        if not self.seconds:
            return {}
        return {
            "others_cores": round(max(0.0, self.others) / self.seconds, 3),
            "run_queue_wait": round(self.waited / self.seconds, 4),
            "stolen": round(self.stolen / self.seconds, 4),
            "throttled": round(self.throttled / self.seconds, 4),
        }


class NoiseMonitor:
    """Watch the machine during a build: each turn, what disturbed, and the time that may be spent on waiting for quiet.

    Args:
        wait_seconds: What waiting for a quiet machine, and turns that are repeated, may take altogether; default: what the
            variable ``MOPT_QUIET_WAIT`` says, or a minute. A machine that is never quiet is told from one
            that was for a moment by waiting in vain, which ends sooner.

    Raises:
        UserError: When the variable is no number.
    """

    def __init__(self, wait_seconds: float | None = None) -> None:
        self._left = _default_wait_seconds() if wait_seconds is None else wait_seconds
        self._longest = _LONGEST_WAIT_SECONDS
        self._waited = 0.0
        self._all = Disturbance()
        self._disturbed = Disturbance()
        self._clocks = _clocks()
        self._start = (time.monotonic(), _machine_seconds(), _process_seconds())

    @property
    def patient(self) -> bool:
        """Whether there is time left to wait for quiet, and turns to repeat."""
        return self._left > 0

    @contextlib.contextmanager
    def watch(self, pid: int) -> Iterator[list[Disturbance]]:
        """Watch one turn of a process; what happened meanwhile is put into the list."""
        seen: list[Disturbance] = []
        before = CpuCounters.read(pid)
        yield seen
        disturbance = Disturbance.between(before, CpuCounters.read(pid))
        self._all += disturbance
        if disturbance.disturbed:
            self._disturbed += disturbance
        seen.append(disturbance)

    def wait_for_quiet(self, spent: float) -> bool:
        """Wait, with everything of ours paused, until others take no core.

        Args:
            spent: Seconds of the turn that was in vain, which count as waiting.

        Returns:
            Whether it is worth trying again.
        """
        if not self.patient:
            return False
        start = time.monotonic()
        self._left -= spent
        limit = min(self._longest, self._left)
        quiet = False
        while not quiet and time.monotonic() - start < limit:
            quiet = _others_cores(_WINDOW_SECONDS) <= _QUIET_CORES
        seconds = time.monotonic() - start
        self._waited += seconds + spent
        self._left -= seconds
        if quiet and seconds > 1.5 * _WINDOW_SECONDS:
            self._longest = _LONGEST_WAIT_SECONDS
        else:  # in vain; or it was quiet at once, and waiting is not what helps
            self._longest = max(_SHORTEST_WAIT_SECONDS, self._longest / 2)
        return quiet

    def summary(self) -> dict[str, float]:
        """Return what tells whether timings can be trusted.

        ``load_1m`` is the number of processes that wanted to run in the last minute; ``stolen`` the share of the time that
        the hypervisor gave to others; ``clock_low`` and ``clock_high`` the slowest and the fastest core in GHz; ``turns``
        how many were timed, ``turns_disturbed`` how many of them did not count, ``waited_for_quiet`` seconds; and of the
        disturbed ones the cores that others took and the shares that were waited for a core and throttled.
        """
        figures: dict[str, float] = {}
        with contextlib.suppress(OSError, AttributeError):  # not psutil's: on Windows it starts at 0, which says quiet
            figures["load_1m"] = round(os.getloadavg()[0], 2)
        moment, (_, stolen), _ = self._start
        if _tells_stolen() and (seconds := (time.monotonic() - moment) * _cores()) > 0:
            figures["stolen"] = round(max(0.0, _machine_seconds()[1] - stolen) / seconds, 4)
        if clocks := [*self._clocks, *_clocks()]:
            figures["clock_low"], figures["clock_high"] = min(clocks), max(clocks)
        if self._all.turns:
            figures["turns"], figures["turns_disturbed"] = self._all.turns, self._disturbed.turns
            figures["waited_for_quiet"] = round(self._waited, 1)
        if self._disturbed.turns:
            shares = self._disturbed.shares()
            figures |= {name: shares[name] for name in ("others_cores", "run_queue_wait", "throttled")}
        return figures

    def disturbed_by(self) -> str:
        """Say what took the time of the turns that were disturbed; of all, where it was little in each and none stands out."""
        if not self._all.turns:
            return ""
        seen = self._disturbed if self._disturbed.turns else self._all
        figures = seen.shares()
        causes = [
            f"others took {figures['others_cores']:.1f} of {_cores()} cores" if figures["others_cores"] > 0 else "",
            f"threads waited {figures['run_queue_wait']:.0%} of the time for a core",
            f"a quota stopped it {figures['throttled']:.0%} of the time" if figures["throttled"] else "",
            f"the hypervisor took {figures['stolen']:.0%}" if figures["stolen"] > _QUIET_STOLEN else "",
        ]
        names = self._busiest()
        busiest = f"; the busiest beside it: {', '.join(names)}" if names else ""
        return f"{seen.turns / self._all.turns:.0%} of the timed turns: {', '.join(filter(None, causes))}{busiest}"

    def _busiest(self) -> list[str]:
        """Names of other processes that took most since the start, with the cores that they took on average."""
        moment, _, before = self._start
        seconds = max(1e-9, time.monotonic() - moment)
        taken: dict[str, float] = {}
        for key, (name, now) in _process_seconds().items():
            taken[name] = taken.get(name, 0.0) + now - before.get(key, ("", 0.0))[1]
        ranked = sorted(taken.items(), key=lambda entry: entry[1], reverse=True)[:_SHOWN_PROCESSES]
        return [f"{name} {spent / seconds:.1f} cores" for name, spent in ranked if spent > _QUIET_CORES * seconds]


def _default_wait_seconds() -> float:
    text = os.environ.get(_WAIT_VARIABLE, "")
    try:
        return float(text or _WAIT_SECONDS)
    except ValueError:
        raise UserError(f"${_WAIT_VARIABLE} is {text!r}", "give seconds, such as 60, or 0 to wait for nothing") from None


def _others_cores(window: float) -> float:
    """Cores that others take within a window in which nothing of ours runs."""
    busy, own, start = _machine_seconds()[0], time.process_time(), time.monotonic()
    time.sleep(window)
    spent = _machine_seconds()[0] - busy - (time.process_time() - own)
    return max(0.0, spent - _TICK_SECONDS) / (time.monotonic() - start)


@functools.cache
def _affinity() -> frozenset[int]:
    """Cores that this process, and with it its children, may use."""
    with contextlib.suppress(AttributeError):  # it is Linux's
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _cores() -> int:
    return len(_affinity())


def _tells_stolen() -> bool:
    import psutil

    return "steal" in psutil.cpu_times()._fields


def _machine_seconds() -> tuple[float, float]:
    """Seconds that the cores of the affinity have worked so far, and those that were stolen from them."""
    import psutil

    busy = stolen = 0.0
    for index, core in enumerate(psutil.cpu_times(percpu=True)):
        if index in _affinity():
            # A guest's time is a part of user's and nice's already.
            busy += sum(getattr(core, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
            stolen += getattr(core, "steal", 0.0)
    return busy, stolen


def _thread_seconds(pid: int) -> tuple[float, float]:
    """Seconds that all threads of a process have run, and have waited for a core."""
    import psutil

    ran = waited = 0.0
    files = list((_PROC / str(pid) / "task").glob("*/schedstat"))
    for file in files:
        with contextlib.suppress(OSError, ValueError):  # a thread has ended meanwhile
            nanoseconds = file.read_text().split()
            ran += int(nanoseconds[0]) / 1e9
            waited += int(nanoseconds[1]) / 1e9
    if not files:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            return times.user + times.system, 0.0
    return ran, waited


def _throttled_seconds() -> float:
    """Seconds that the quotas of all cgroups above this process have stopped it so far."""
    seconds = 0.0
    for file in _quota_files():
        with contextlib.suppress(OSError, ValueError):
            figures = dict(line.split() for line in file.read_text().splitlines())
            seconds += int(figures.get("throttled_usec", 0)) / 1e6 + int(figures.get("throttled_time", 0)) / 1e9
    return seconds


@functools.cache
def _quota_files() -> tuple[Path, ...]:
    """``cpu.stat`` of this process's cgroup and of those above it, as far as they can be seen from here."""
    files: list[Path] = []
    with contextlib.suppress(OSError):
        groups = [line.split(":", 2) for line in (_PROC / "self" / "cgroup").read_text().splitlines()]
        for line in (_PROC / "self" / "mountinfo").read_text().splitlines():
            fields, _, kind = line.partition(" - ")
            name, _, options = kind.split(" ", 2)
            root, mount = fields.split()[3:5]
            for _, controllers, path in groups:
                version_2 = name == "cgroup2" and not controllers
                if version_2 or (name == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(",")):
                    files += _up(Path(mount), path.removeprefix(root.rstrip("/")).strip("/"))
    return tuple(file for file in dict.fromkeys(files) if file.is_file())


def _up(mount: Path, path: str) -> list[Path]:
    folders = [mount / path, *(mount / path).parents]
    return [folder / "cpu.stat" for folder in folders if folder.is_relative_to(mount)]


def _process_seconds() -> Mapping[tuple[int, float], tuple[str, float]]:
    """CPU seconds of every other process by its id and start: those of ours, which end with us, are left out."""
    import psutil

    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    seconds: dict[tuple[int, float], tuple[str, float]] = {}
    for process in psutil.process_iter(["pid", "name", "cpu_times", "create_time"]):
        details = process.info
        if details["pid"] not in ours and details["cpu_times"] is not None:
            times = details["cpu_times"]
            seconds[details["pid"], details["create_time"]] = (details["name"], times.user + times.system)
    return seconds


def _clocks() -> list[float]:
    """Clocks of all cores in GHz; none where a system does not tell."""
    import psutil

    with contextlib.suppress(AttributeError, NotImplementedError, OSError, RuntimeError):
        return [round(core.current / 1e3, 3) for core in psutil.cpu_freq(percpu=True) if core.current]
    return []
