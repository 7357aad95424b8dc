import contextlib
import ctypes
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest

from mopt.errors import CandidateRejectedError, MissingDependencyError, NotApplicableError, Rejection, UserError
from mopt.system import process
from mopt.system.deadlines import TimeLimit
from mopt.system.process import Worker, peak_memory, run


def echo(value):
    return value


def crash(number):
    os.kill(os.getpid(), number)


def print_and_leave():
    print("the weights are cursed", file=sys.stderr)
    os._exit(7)


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def fail(error):
    raise error


def fill_the_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


def variable(name):
    return os.environ.get(name)


def swamp(byte):
    return bytearray(byte) and None


class Counter:
    def __init__(self, start):
        self.value = start

    def add(self, number):
        self.value += number
        return self.value


class Liar:
    """Writes to the parent what a taken-over child could write."""

    def lie(self, message):
        pipes = [Connection(descriptor, readable=False) for descriptor in range(3, 256)]
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send_bytes(message)
        time.sleep(60)


@pytest.fixture(scope="module", autouse=True)
def _importable():
    """The child finds this module by its name."""
    sys.path.insert(0, str(Path(__file__).parent))
    yield
    sys.path.remove(str(Path(__file__).parent))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL], ids=lambda number: number.name)
def test_a_crash_is_a_rejection_that_names_the_signal(number):
    with pytest.raises(CandidateRejectedError, match=number.name) as caught:
        run(crash, number)
    assert caught.value.rejection is Rejection.CRASHED


def test_a_crash_quotes_the_end_of_what_was_printed():
    with pytest.raises(CandidateRejectedError, match="exit code 7: the weights are cursed"):
        run(print_and_leave)


def test_a_hang_is_a_rejection_and_ends_the_child():
    start = time.monotonic()
    with Worker(Counter, 1) as worker:
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)  # from outside: it reads nothing and answers nothing
        with pytest.raises(CandidateRejectedError, match="no answer within 0 s") as caught:
            worker.call("add", 1, limit=TimeLimit(0.3))
        assert caught.value.rejection is Rejection.HUNG
        with pytest.raises(CandidateRejectedError, match="ended already"):
            worker.call("add", 1)
    assert time.monotonic() - start < 20
    assert not _alive(pid)


def test_a_slow_call_is_ended_at_its_time_limit():
    with pytest.raises(CandidateRejectedError) as caught:
        run(sleep, 60, limit=TimeLimit(0.5))
    assert caught.value.rejection is Rejection.HUNG


@pytest.mark.parametrize(
    "error",
    [
        UserError("bad tolerance: 3", "use a number below 1"),
        MissingDependencyError("openvino", "openvino"),
        NotApplicableError("it has no convolution"),
        CandidateRejectedError(Rejection.NOT_FINITE, "output y has NaN"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_mopts_own_errors_arrive_as_they_were_raised(error):
    with pytest.raises(type(error)) as caught:
        run(fail, error)
    assert caught.value.__reduce__() == error.__reduce__()


def test_an_unforeseen_error_rejects_with_its_type_and_text():
    with pytest.raises(CandidateRejectedError, match="ZeroDivisionError: by nought") as caught:
        run(fail, ZeroDivisionError("by nought"))
    assert caught.value.rejection is Rejection.FAILED


def test_a_full_disk_stays_a_full_disk():
    with pytest.raises(OSError, match="No space left") as caught:
        run(fill_the_disk)
    assert caught.value.errno == errno.ENOSPC


def test_running_out_of_memory_is_a_rejection_for_memory():
    with pytest.raises(CandidateRejectedError) as caught:
        run(fail, MemoryError())
    assert caught.value.rejection is Rejection.MEMORY


def hold(size):
    held = np.ones(size, np.uint8)
    time.sleep(60)
    return int(held[0])


def test_more_memory_than_allowed_is_a_rejection_and_ends_the_child():
    start = time.monotonic()
    with pytest.raises(CandidateRejectedError, match=r"took \d\.\d GB of memory, and \d\.\d GB are allowed") as caught:
        run(hold, 400_000_000, memory=psutil.Process().memory_info().rss + 200_000_000)
    assert caught.value.rejection is Rejection.MEMORY
    assert time.monotonic() - start < 50


def test_a_limit_on_memory_needs_no_proc_of_linux(monkeypatch, tmp_path):
    """As on macOS: neither files of the kernel nor waitid; all figures are psutil's."""
    monkeypatch.setattr(process, "_PROC", tmp_path)
    monkeypatch.delattr(os, "waitid")
    with Worker(Counter, 1) as worker:
        worker.pause()
        assert psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED
        assert worker.peak_memory() > 5_000_000
        assert psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, "asking for a figure leaves it as it was"
        assert worker.call("add", 1) == 2
    with pytest.raises(CandidateRejectedError, match=r"took \d\.\d GB of memory") as caught:
        run(hold, 400_000_000, memory=psutil.Process().memory_info().rss + 200_000_000)
    assert caught.value.rejection is Rejection.MEMORY


def test_on_windows_it_says_what_to_use(monkeypatch):
    with monkeypatch.context() as windows:
        windows.setattr(process.os, "name", "nt")
        with pytest.raises(UserError, match="Windows") as caught:
            Worker(Counter, 1)
    assert "Subsystem for Linux" in caught.value.hint


def test_a_limit_on_memory_leaves_the_limit_on_time_and_the_answer_alone():
    assert run(echo, 7, memory=10**10) == 7
    with pytest.raises(CandidateRejectedError, match="no answer within 1 s"):
        run(hold, 1, limit=TimeLimit(1), memory=10**10)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.arange(24, dtype=np.int64).reshape(4, 6)[::2, ::-1],
        np.array(3.5, dtype=np.float64),
        np.zeros((2, 0, 3), dtype=np.uint8),
        np.array([True, False]),
        np.array([1.5, -2, np.nan], dtype=ml_dtypes.bfloat16),
        np.array([1.5, -2], dtype=ml_dtypes.float8_e4m3fn),
        np.full((3, 1 << 20), 7, dtype=np.int16),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back_bit_for_bit(array):
    back = run(echo, {"nested": [array, 1]})["nested"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([["naïve", ""], ["a\0b", "\n"]], dtype=object), ["naïve", "", "a\0b", "\n"]),
        (np.array(["x", "yz"]), ["x", "yz"]),
        (np.array([b"x", b"yz"]), ["x", "yz"]),
        (np.array("alone", dtype=object), ["alone"]),
    ],
    ids=["object", "unicode", "bytes", "scalar"],
)
def test_strings_come_back_as_strings(array, expected):
    back = run(echo, array)
    assert back.dtype == object
    assert back.shape == array.shape
    assert back.ravel().tolist() == expected


def test_plain_values_come_back_as_json():
    value = {"path": Path("/x"), "pair": (1, 2.5), "none": None, "number": np.float32(0.5), "infinite": float("inf")}
    expected = {"path": "/x", "pair": [1, 2.5], "none": None, "number": 0.5, "infinite": float("inf")}
    assert run(echo, value) == expected


def test_the_hosted_object_keeps_its_state_between_calls():
    with Worker(Counter, 40) as worker:
        assert worker.call("add", 1) == 41
        worker.pause()
        assert worker.call("add", 1) == 42


def test_the_environment_is_set_before_anything_is_imported():
    with Worker(Counter, 0, environment={"MOPT_TEST": "yes"}) as worker:
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert b"MOPT_TEST=yes" in environment


def test_a_pickle_from_the_child_is_never_loaded(tmp_path):
    """A taken-over child may write what it likes; the parent must not run it."""
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    with Worker(Liar) as worker, pytest.raises(CandidateRejectedError, match="nonsense") as caught:
        worker.call("lie", pickle.dumps(Bomb()))
    assert caught.value.rejection is Rejection.CRASHED
    assert not mark.exists()


@pytest.mark.parametrize(
    ("answer", "rejection"),
    [
        ([], Rejection.CRASHED),
        ({"value": {"__array__": 5, "dtype": "float32", "shape": [1]}}, Rejection.CRASHED),
        ({"error": {"kind": "rejected"}}, Rejection.CRASHED),
        ({"value": {"__array__": 0, "dtype": "float32", "shape": [1]}}, Rejection.HUNG),
    ],
    ids=["list", "other-array", "half-error", "array-that-never-comes"],
)
def test_an_answer_that_makes_no_sense_rejects_the_candidate(answer, rejection):
    with Worker(Liar) as worker, pytest.raises(CandidateRejectedError) as caught:
        worker.call("lie", json.dumps(answer).encode(), limit=TimeLimit(1))
    assert caught.value.rejection is rejection


PARENT = """
import sys, time
sys.path.insert(0, {tests!r})
from mopt.system.process import Worker
from test_process import Counter
worker = Worker(Counter, 1)
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_the_child_dies_when_the_parent_is_killed():
    code = PARENT.format(tests=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _alive(child)
        parent.kill()
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def test_closing_twice_is_safe_and_leaves_no_process():
    worker = Worker(Counter, 1)
    pid = worker.pid
    worker.close()
    worker.close()
    assert not _alive(pid)


def test_peak_memory_counts_what_was_touched():
    assert peak_memory(os.getpid()) > 10_000_000
    assert peak_memory(2**22 + 1) == 0


def test_peak_memory_without_proc_is_the_processs_own(monkeypatch, tmp_path):
    before = peak_memory(os.getpid())
    monkeypatch.setattr(process, "_PROC", tmp_path)
    assert 0.99 * before <= peak_memory(os.getpid()), "it may count the process that started this one"
    assert peak_memory(os.getppid()) == 0


@pytest.mark.slow
def test_a_child_that_waits_for_its_parent_ends_with_it():
    """What ends a child in the middle of its work where the kernel does not."""
    watch = "import os, sys; from mopt.system.process import _end_after; _end_after(int(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as parent:
        child = subprocess.Popen([sys.executable, "-c", watch, str(parent.pid)])
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1.5)
        parent.kill()
        parent.wait()
        assert child.wait(20) == 1


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


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
    monkeypatch.setattr(process, "_IDLE_LOOK_SECONDS", 0.5)


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


def test_a_paused_child_goes_on_when_it_is_asked():
    with Worker(Counter, 1) as worker:
        worker.pause()
        time.sleep(1.0)
        assert worker.call("add", 1, limit=TimeLimit(30.0, idle_seconds=0.5)) == 2
