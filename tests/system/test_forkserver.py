import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.system import forkserver
from mopt.system.deadlines import TimeLimit
from mopt.system.forkserver import find_server, forking
from mopt.system.process import Worker, run
from tests.hosted import Counter, alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets another process wait for a process")
MODULES = ("json",)


@pytest.fixture(autouse=True)
def _none_left_over():
    forkserver._SERVERS.users, users = 0, forkserver._SERVERS.users
    forkserver._SERVERS.running, running = {}, forkserver._SERVERS.running
    yield
    forkserver._SERVERS.users, forkserver._SERVERS.running = users, running


def imported(name):
    return name in sys.modules


def parent():
    return os.getppid()


def surroundings():
    return {"directory": os.getcwd(), "variable": os.environ.get("PROBE", ""), "session": os.getsid(0) == os.getpid()}


def crash(number):
    os.kill(os.getpid(), number)


def complain_and_leave():
    print("the weights are cursed", file=sys.stderr)
    os._exit(7)


def test_without_the_context_a_child_starts_anew():
    assert find_server(MODULES, {}) is None
    assert run(parent, modules=MODULES) == os.getpid()


def test_children_of_the_same_libraries_come_from_one_process_that_has_them():
    with forking():
        assert run(imported, "colorsys", modules=("colorsys",))
        first, second = (run(parent, modules=MODULES) for _ in range(2))
        assert first == second != os.getpid()
        assert run(parent, modules=("colorsys",)) != first


def test_a_library_that_is_missing_is_the_childs_business():
    with forking():
        assert not run(imported, "no_such_library", modules=("no_such_library",))


def test_a_forked_child_is_where_its_parent_is(tmp_path, monkeypatch):
    with forking():
        run(parent, modules=MODULES)  # the server started elsewhere
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PROBE", "now")
        assert run(surroundings, modules=MODULES) == {"directory": str(tmp_path), "variable": "now", "session": True}


def test_children_are_as_isolated_as_those_that_started_anew():
    with forking(), Worker(Counter, 1, modules=MODULES) as left, Worker(Counter, 10, modules=MODULES) as right:
        assert (left.call("add", 1), right.call("add", 1), left.call("add", 1)) == (2, 11, 3)
        assert left.pid != right.pid


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL], ids=lambda number: number.name)
def test_a_crash_names_the_signal(number):
    with forking(), pytest.raises(CandidateRejectedError, match=number.name) as caught:
        run(crash, number, modules=MODULES)
    assert caught.value.rejection is Rejection.CRASHED


def test_a_crash_quotes_what_was_printed():
    with forking(), pytest.raises(CandidateRejectedError, match="exit code 7: the weights are cursed"):
        run(complain_and_leave, modules=MODULES)


def test_a_paused_child_has_stopped_and_goes_on():
    with forking(), Worker(Counter, 1, modules=MODULES) as worker:
        worker.pause()
        assert psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED
        assert worker.call("add", 1) == 2


def test_a_hung_child_is_ended():
    with forking(), Worker(Counter, 1, modules=MODULES) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(CandidateRejectedError, match="no answer within 0 s"):
            worker.call("add", 1, limit=TimeLimit(0.3))
        assert not alive(worker.pid)


def test_nothing_is_left_when_the_outermost_context_ends():
    with forking():
        with forking():
            server = run(parent, modules=MODULES)
            worker = Worker(Counter, 1, modules=MODULES)
        assert alive(server)
    assert not alive(server)
    _wait_for_the_end_of(worker.pid)
    worker.close()


def test_a_server_that_was_killed_is_replaced():
    with forking():
        first = run(parent, modules=MODULES)
        os.kill(first, signal.SIGKILL)
        assert run(parent, modules=MODULES) != first


def test_a_server_that_dies_unnoticed_costs_nothing_but_time(monkeypatch):
    with forking():
        os.kill(run(parent, modules=MODULES), signal.SIGKILL)
        monkeypatch.setattr(forkserver.ForkServer, "usable", True)
        assert run(parent, modules=MODULES) == os.getpid()


def test_server_and_children_end_with_the_process_that_needs_them(tmp_path):
    script = tmp_path / "needs.py"
    script.write_text(
        "import os\n"
        "from mopt.system.forkserver import forking\n"
        "from mopt.system.process import Worker, run\n"
        "from tests.hosted import Counter\n"
        "from tests.system.test_forkserver import parent\n"
        "with forking():\n"
        "    worker = Worker(Counter, 1, modules=('json',))\n"
        "    print(run(parent, modules=('json',)), worker.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [os.getcwd(), *sys.path]))}
    output = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    pids = list(map(int, output.stdout.split()))
    assert len(pids) == 2, output.stderr
    for pid in pids:
        _wait_for_the_end_of(pid)


def _wait_for_the_end_of(pid):
    end = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < end
        time.sleep(0.01)
