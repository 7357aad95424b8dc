import ctypes
import os
import signal
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.system import memory, watchdog
from mopt.system.deadlines import TimeLimit
from mopt.system.process import Worker, run
from tests.hosted import Counter, echo, hold, sleep


def test_a_slow_call_is_ended_at_its_time_limit():
    with pytest.raises(CandidateRejectedError) as caught:
        run(sleep, 60, limit=TimeLimit(0.5))
    assert caught.value.rejection is Rejection.HUNG


def test_more_memory_than_allowed_is_a_rejection_and_ends_the_child():
    start = time.monotonic()
    with pytest.raises(CandidateRejectedError, match=r"took \d\.\d GB of memory, and \d\.\d GB are allowed") as caught:
        run(hold, 400_000_000, memory=300_000_000)
    assert caught.value.rejection is Rejection.MEMORY
    assert time.monotonic() - start < 50


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux refuses memory")
def test_a_child_that_grows_faster_than_anyone_looks_is_refused_by_the_system(monkeypatch):
    monkeypatch.setattr(watchdog, "_LOOK_SECONDS", 60.0)
    allowed = psutil.Process().memory_info().rss + 200_000_000
    with Worker(Counter, 0) as worker:
        before = psutil.Process(worker.pid).rlimit(psutil.RLIMIT_DATA)
        assert worker.call("add", 1, memory=allowed) == 1
        assert psutil.Process(worker.pid).rlimit(psutil.RLIMIT_DATA) == before
    with pytest.raises(CandidateRejectedError, match="out of memory") as caught:
        run(hold, 3 * allowed, memory=allowed)
    assert caught.value.rejection is Rejection.MEMORY


def test_a_limit_on_memory_needs_no_proc_of_linux(monkeypatch, tmp_path):
    """As on macOS: neither files of the kernel nor waitid; all figures are psutil's."""
    for module in (memory, watchdog):
        monkeypatch.setattr(module, "_PROC", tmp_path)
    monkeypatch.delattr(os, "waitid")
    with Worker(Counter, 1) as worker:
        worker.pause()
        assert psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED
        assert worker.peak_memory() > 5_000_000
        assert psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, "asking for a figure leaves it as it was"
        assert worker.call("add", 1) == 2
    with pytest.raises(CandidateRejectedError, match=r"took \d\.\d GB of memory") as caught:
        run(hold, 400_000_000, memory=300_000_000)
    assert caught.value.rejection is Rejection.MEMORY


def test_a_limit_on_memory_leaves_the_limit_on_time_and_the_answer_alone():
    assert run(echo, 7, memory=10**10) == 7
    with pytest.raises(CandidateRejectedError, match="no answer within 1 s"):
        run(hold, 1, limit=TimeLimit(1), memory=10**10)


def deadlock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def wait_for_python_lock(seconds):
    """Threads that wait for Python's lock, which one holds in C, as in a deadlock between it and a library's own lock."""
    for _ in range(4):
        threading.Thread(target=compute, args=(seconds,), daemon=True).start()
    ctypes.PyDLL(None).sleep(int(seconds))  # unlike CDLL, it keeps Python's lock


def write_little(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.write(2, b".")
        time.sleep(0.2)
    return "done"


@pytest.fixture
def quick_looks(monkeypatch):
    monkeypatch.setattr(watchdog, "_IDLE_LOOK_SECONDS", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("function", "arguments"), [(deadlock, ()), (wait_for_python_lock, (60,))])
def test_a_child_that_does_nothing_is_noticed_before_its_time_is_up(quick_looks, function, arguments):
    start = time.monotonic()
    with pytest.raises(CandidateRejectedError, match=r"and nothing done for \d s") as caught:
        run(function, *arguments, limit=TimeLimit(300.0, idle_seconds=3.0))
    assert caught.value.rejection is Rejection.HUNG
    assert time.monotonic() - start < 60


@pytest.mark.slow
@pytest.mark.parametrize("function", [compute, write_little])
def test_a_child_that_does_anything_at_all_is_waited_for(quick_looks, function):
    assert run(function, 5, limit=TimeLimit(300.0, idle_seconds=2.0)) == "done"


@pytest.mark.slow
def test_a_child_that_may_wait_is_not_called_idle(quick_looks):
    assert run(sleep, 2, limit=TimeLimit(300.0, idle_seconds=float("inf"))) > 0


def test_a_child_that_reads_nothing_of_a_large_request_is_a_hang():
    """The parent is stuck in writing then, not in reading."""
    with Worker(Counter, 1) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(CandidateRejectedError) as caught:
            worker.call("add", np.zeros(10**7), limit=TimeLimit(0.5))
        assert caught.value.rejection is Rejection.HUNG
