import os
import subprocess
import sys
import time

import psutil
import pytest

from mopt.errors import UserError
from mopt.profiles import noise
from mopt.profiles.load import cpu_load
from mopt.profiles.noise import CpuCounters, Disturbance, NoiseMonitor

pytestmark = pytest.mark.other_work
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def turn(seconds=0.1, ran=0.1, **more):
    return Disturbance(seconds=seconds, ran=ran, turns=1, **more)


@pytest.mark.parametrize(
    ("more", "disturbed"),
    [
        ({}, False),
        ({"waited": 0.001}, False),
        ({"waited": 0.01, "others": 0.015}, True),
        ({"waited": 0.05}, False),
        ({"others": 0.01}, False),
        ({"others": 0.1}, True),
        ({"stolen": 0.01}, False),
        ({"others": -0.02}, False),
        ({"stolen": 0.03}, True),
        ({"throttled": 0.002}, True),
    ],
)
def test_a_turn_is_disturbed_by_what_ticks_cannot_feign(monkeypatch, more, disturbed):
    monkeypatch.setattr(noise, "_cores", lambda: 2)
    assert turn(**more).disturbed is disturbed


def test_over_many_turns_a_little_is_enough(monkeypatch):
    monkeypatch.setattr(noise, "_cores", lambda: 2)
    little = turn(others=0.015)
    assert not little.disturbed
    total = sum([little] * 20, Disturbance())
    assert total.turns == 20
    assert total.disturbed
    assert total.shares()["others_cores"] == pytest.approx(0.15)


def test_ticks_that_blur_single_turns_even_out(monkeypatch):
    monkeypatch.setattr(noise, "_cores", lambda: 2)
    total = sum([turn(others=blur) for blur in (0.02, -0.02) * 20], Disturbance())
    assert not total.disturbed
    assert turn(others=-0.02).shares()["others_cores"] == 0


def test_threads_that_wait_for_each_other_are_no_disturbance(monkeypatch):
    monkeypatch.setattr(noise, "_cores", lambda: 2)
    assert not turn(ran=0.2, waited=0.2).disturbed
    assert not turn(ran=0.1, waited=0.1).disturbed
    assert turn(ran=0.1, waited=0.1, others=0.015).disturbed
    many = [turn(ran=0.15, waited=0.03, others=blur) for blur in (0.015, -0.015) * 20]
    assert not sum(many, Disturbance()).disturbed


def test_on_many_cores_others_may_use_what_is_free(monkeypatch):
    monkeypatch.setattr(noise, "_cores", lambda: 64)
    assert not turn(ran=0.4, others=0.3).disturbed
    assert turn(ran=0.4, others=2.0).disturbed


def test_counters_see_what_this_process_and_others_take():
    child = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        before = CpuCounters.read(child.pid)
        time.sleep(0.3)
        seen = Disturbance.between(before, CpuCounters.read(child.pid))
    finally:
        child.kill()
        child.wait()
    assert seen.seconds >= 0.3
    assert seen.ran > 0
    assert seen.ran <= 1.05 * CORES * seen.seconds


@pytest.mark.skipif(sys.platform != "linux", reason="the run-queue wait is Linux's")
def test_a_loop_on_every_core_is_seen_and_named():
    monitor = NoiseMonitor(wait_seconds=0.5)
    with cpu_load(loops=2 * CORES):
        time.sleep(0.1)
        with monitor.watch(os.getpid()) as seen:
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass
        assert seen[0].disturbed
        start = time.monotonic()
        assert not monitor.wait_for_quiet(0.0)
        assert time.monotonic() - start < 5
        assert not monitor.patient
    figures = monitor.summary()
    assert (figures["turns"], figures["turns_disturbed"]) == (1, 1)
    assert figures["waited_for_quiet"] > 0
    assert monitor.disturbed_by().startswith("100% of the timed turns: others took ")


def test_what_took_the_time_is_told_when_no_turn_stands_out(monkeypatch):
    monkeypatch.setattr(noise, "_cores", lambda: 2)
    readings = iter(CpuCounters(0.1 * turn, 0.1 * turn, 0, 0.12 * turn, 0, 0) for turn in range(60))
    monkeypatch.setattr(CpuCounters, "read", lambda pid: next(readings))
    monitor = NoiseMonitor()
    assert monitor.disturbed_by() == ""
    for _ in range(30):
        with monitor.watch(os.getpid()) as seen:
            pass
        assert not seen[0].disturbed
    assert monitor.summary()["turns_disturbed"] == 0
    assert monitor.disturbed_by().startswith("100% of the timed turns: others took 0.2 of 2 cores")


def test_waits_in_vain_become_shorter(monkeypatch):
    monkeypatch.setattr(noise, "_others_cores", lambda window: time.sleep(0.01) or 1.0)
    monkeypatch.setattr(noise, "_LONGEST_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(noise, "_SHORTEST_WAIT_SECONDS", 0.02)
    monitor, waits = NoiseMonitor(), []
    for _ in range(4):
        start = time.monotonic()
        assert not monitor.wait_for_quiet(0.0)
        waits.append(time.monotonic() - start)
    assert waits[0] > 1.5 * waits[1] > 2 * waits[2]


def test_a_machine_that_becomes_quiet_is_waited_for(monkeypatch):
    cores = iter([1.0, 1.0, 0.0])
    monkeypatch.setattr(noise, "_others_cores", lambda window: next(cores))
    monitor = NoiseMonitor()
    assert monitor.wait_for_quiet(0.0)
    assert monitor.patient


def test_quotas_of_both_versions_of_cgroups_are_read(monkeypatch, tmp_path):
    (tmp_path / "new").write_text("usage_usec 5\nthrottled_usec 2000000\n")
    (tmp_path / "old").write_text("nr_throttled 3\nthrottled_time 1000000000\n")
    monkeypatch.setattr(noise, "_quota_files", lambda: (tmp_path / "new", tmp_path / "old", tmp_path / "gone"))
    assert CpuCounters.read(os.getpid()).throttled == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("group", "mount", "place"),
    [
        ("0::/work/job", "30 20 0:26 / {root} rw - cgroup2 cgroup rw", "work/job"),
        ("0::/docker/abc", "30 20 0:26 /docker/abc {root} rw - cgroup2 cgroup rw", ""),
        ("3:cpu,cpuacct:/work/job", "31 20 0:27 / {root} rw - cgroup cgroup rw,cpu,cpuacct", "work/job"),
    ],
)
def test_the_quota_is_that_of_our_group_and_of_those_above(monkeypatch, tmp_path, group, mount, place):
    root = tmp_path / "cgroup"
    (root / "work" / "job").mkdir(parents=True)
    for folder in (root, root / "work" / "job", root / "work"):
        (folder / "cpu.stat").write_text("throttled_usec 1\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(group + "\n")
    (tmp_path / "self" / "mountinfo").write_text(mount.format(root=root) + "\n")
    monkeypatch.setattr(noise, "_PROC", tmp_path)
    files = noise._quota_files.__wrapped__()
    assert files[0] == root / place / "cpu.stat"
    assert files[-1] == root / "cpu.stat"
    assert len(files) == 1 + len([part for part in place.split("/") if part])


def test_a_system_that_tells_nothing_is_no_error(monkeypatch):
    def nothing(percpu=False):
        raise NotImplementedError

    monkeypatch.setattr(psutil, "cpu_times", lambda percpu=False: [Times()] if percpu else Times())
    monkeypatch.setattr(psutil, "cpu_freq", nothing)
    monkeypatch.delattr(noise.os, "getloadavg")
    assert NoiseMonitor().summary() == {}


class Times:
    _fields = ("user", "idle")
    user, idle = 1.0, 2.0


def test_how_long_it_may_wait_is_said_by_a_variable(monkeypatch):
    monkeypatch.setenv("MOPT_QUIET_WAIT", "0")
    assert not NoiseMonitor().patient
    monkeypatch.setenv("MOPT_QUIET_WAIT", "soon")
    with pytest.raises(UserError, match="MOPT_QUIET_WAIT is 'soon'"):
        NoiseMonitor()
