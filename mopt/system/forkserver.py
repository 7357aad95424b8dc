"""Start child processes by forking one that has imported their libraries already.

Importing a runtime takes longer than most of what a child is asked. While :func:`forking` is active, each set of libraries has
one process that imports it and does nothing else: it never sees a model, and it forks before any thread of a session exists, so
that each child is as fresh as one that was started anew. Only Linux has what this needs; elsewhere children start anew.
"""

from __future__ import annotations

__all__ = ["ForkServer", "ForkedProcess", "find_server", "forking", "prestart"]

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

_MESSAGE = 1 << 20
"""Bytes of a message: an environment and a search path fit."""
_ANSWER_SECONDS = 60.0
"""For a fork, or for importing before the first one."""
_LOOK_SECONDS = 0.0002
"""Between two looks at whether a process has stopped."""


class ForkedProcess:
    """A child of a fork server, with as much of :class:`subprocess.Popen` as is needed.

    Attributes:
        pid: Its process id; it is not given to another process before the status was read.
        returncode: As that of ``Popen``; None as long as it runs.
    """

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None as long as it runs."""
        return self._status(0.0)

    def wait(self, timeout: float) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: When it has not come within ``timeout`` seconds.
        """
        status = self._status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return status

    def wait_until_stopped(self) -> None:
        """Wait until its last thread has stopped, or it has ended."""
        while self.poll() is None and not _has_stopped(self.pid):
            time.sleep(_LOOK_SECONDS)

    def _status(self, timeout: float) -> int | None:
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._handle, select.POLLIN)
            if ended.poll(timeout * 1e3):
                self.returncode = self._server.reap(self.pid)
                os.close(self._handle)
        return self.returncode


def _has_stopped(pid: int) -> bool:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    for thread in threads:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


class ForkServer:
    """A process that has imported libraries, and forks.

    Args:
        modules: Imported by it; one that cannot be imported is left to the child, which says what is wrong.
        environment: Variables that these libraries read when they are imported.
    """

    def __init__(self, modules: Sequence[str], environment: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = (
            f"import sys; sys.path[:] = {_search_path()!r}; "
            f"from mopt.system.forkserver import serve_forks; serve_forks({theirs.fileno()}, {list(modules)!r})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )

    @property
    def usable(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def fork(self, request: int, answer: int, log: int, environment: dict[str, str]) -> ForkedProcess:
        """Fork a child that answers requests as :func:`mopt.system.child.serve` does.

        Args:
            request: File descriptor from which it reads requests.
            answer: The one that it writes answers to.
            log: The one that it prints to.
            environment: All variables of the child.

        Raises:
            OSError: When the server is gone, or does not answer.
        """
        message = {"directory": os.getcwd(), "path": _search_path(), "environment": environment}
        return ForkedProcess(self, self._ask(message, (request, answer, log))["pid"])

    def reap(self, pid: int) -> int:
        """Return the exit code of a child that has ended; that of a killed one when its server is gone with it."""
        try:
            return int(self._ask({"reap": pid})["status"])
        except OSError:
            return -signal.SIGKILL

    def close(self) -> None:
        """End it, and with it all children that still run."""
        self._process.kill()
        self._process.wait()
        self._control.close()

    def _ask(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        with self._lock:
            try:
                socket.send_fds(self._control, [json.dumps(message).encode()], list(descriptors))
                self._control.settimeout(_ANSWER_SECONDS)
                reply: dict[str, Any] = json.loads(self._control.recv(_MESSAGE))
            except (OSError, ValueError):  # whatever it says later would be taken for the answer to another message
                self._process.kill()
                raise ConnectionResetError("the fork server has ended") from None
        return reply


def _search_path() -> list[str]:
    return [entry or os.getcwd() for entry in sys.path]


@dataclasses.dataclass
class _Servers:
    """Those of this process.

    Attributes:
        users: How many :func:`forking` are active.
        running: By what they have imported.
    """

    users: int = 0
    running: dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], ForkServer] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


_SERVERS = _Servers()
if hasattr(os, "register_at_fork"):  # what a fork of this process inherits answers this process alone
    os.register_at_fork(after_in_child=lambda: vars(_SERVERS).update(vars(_Servers())))


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Let children that start meanwhile be forked; the servers end with the outermost of these contexts."""
    with _SERVERS.lock:
        _SERVERS.users += 1
    try:
        yield
    finally:
        with _SERVERS.lock:
            _SERVERS.users -= 1
            ended = [] if _SERVERS.users else list(_SERVERS.running.values())
            if ended:
                _SERVERS.running.clear()
        for server in ended:
            server.close()


def find_server(modules: Sequence[str], environment: dict[str, str]) -> ForkServer | None:
    """Return the server for these libraries, or None where children start anew."""
    if not modules or sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return None
    key = tuple(modules), tuple(sorted(environment.items()))
    with _SERVERS.lock:
        if not _SERVERS.users:
            return None
        server = _SERVERS.running.get(key)
        if server is None or not server.usable:
            server = _SERVERS.running[key] = ForkServer(modules, environment)
        return server


def prestart(modules: Sequence[str], environment: dict[str, str]) -> None:
    """Let the server for these libraries import them now, while something else is waited for."""
    find_server(modules, environment)


def serve_forks(control_fd: int, modules: Sequence[str]) -> None:
    """Import, then fork for every message, and never return; the end of the parent ends it. Called in the server."""
    import gc
    import importlib

    from mopt.system.child import serve, without_telemetry

    without_telemetry()
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=control_fd)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE, 3)
        if not message:
            os._exit(0)
        request = json.loads(message)
        if "reap" in request:
            status = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
            control.send(json.dumps({"status": status}).encode())
            continue
        server = os.getpid()
        pid = os.fork()
        if not pid:
            control.close()
            serve(*_take_over(request, descriptors), server)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(json.dumps({"pid": pid}).encode())


def _take_over(request: dict[str, Any], descriptors: Sequence[int]) -> tuple[int, int]:
    """Make of a fork what a process of its own would be; return where requests come from, and where answers go."""
    requests, answers, log = descriptors
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request["directory"])
    sys.path[:] = request["path"]
    os.environ.clear()
    os.environ.update(request["environment"])
    return requests, answers
