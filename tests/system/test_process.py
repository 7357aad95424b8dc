import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.system import process
from mopt.system.arrays import native_array
from mopt.system.deadlines import TimeLimit
from mopt.system.process import Worker, run
from mopt.system.store import code_digest
from tests.hosted import Counter, alive


def crash(number):
    os.kill(os.getpid(), number)


def print_and_leave():
    print("the weights are cursed", file=sys.stderr)
    os._exit(7)


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
    assert not alive(pid)


def test_on_windows_it_says_what_to_use(monkeypatch):
    with monkeypatch.context() as windows:
        windows.setattr(process.os, "name", "nt")
        with pytest.raises(UserError, match="Windows") as caught:
            Worker(Counter, 1)
    assert "Subsystem for Linux" in caught.value.hint


def test_the_hosted_object_keeps_its_state_between_calls():
    with Worker(Counter, 40) as worker:
        assert worker.call("add", 1) == 41
        worker.pause()
        assert worker.call("add", 1) == 42


def test_the_environment_is_set_before_anything_is_imported():
    with Worker(Counter, 0, environment={"MOPT_TEST": "yes"}) as worker:
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert b"MOPT_TEST=yes" in environment


def test_closing_twice_is_safe_and_leaves_no_process():
    worker = Worker(Counter, 1)
    pid = worker.pid
    worker.close()
    worker.close()
    assert not alive(pid)


def test_a_paused_child_goes_on_when_it_is_asked():
    with Worker(Counter, 1) as worker:
        worker.pause()
        time.sleep(1.0)
        assert worker.call("add", 1, limit=TimeLimit(30.0, idle_seconds=0.5)) == 2


def test_a_child_of_another_python_has_this_mopt_and_nothing_else_of_this_one(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    python = Path(sys.executable)
    look = "__import__('importlib.util').util.find_spec('only_here') is not None"
    assert run(eval, look)
    assert not run(eval, look, python=python)
    assert run(code_digest, python=python) == code_digest()


def test_arrays_go_to_another_python_and_back():
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(run(native_array, value, python=Path(sys.executable)), value)


def test_requests_for_another_python_are_what_numpy_1_reads(monkeypatch):
    protocols = []

    class Noted(pickle.Pickler):
        def __init__(self, file, protocol):
            protocols.append(protocol)
            super().__init__(file, protocol=protocol)

    monkeypatch.setattr(process.pickle, "Pickler", Noted)
    run(code_digest, python=Path(sys.executable))
    run(code_digest)
    assert protocols == [4, pickle.HIGHEST_PROTOCOL]
