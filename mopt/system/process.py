"""Run code that may crash, hang or be hostile in a child process.

Requests travel as pickle, because the parent is trusted. Answers travel as JSON and raw array bytes, never as pickle:
the child has loaded a model file, and a model file is hostile input.
"""

from __future__ import annotations

__all__ = ["ChildProcess", "Worker", "run"]

import contextlib
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.system.deadlines import STARTING, TimeLimit
from mopt.system.forkserver import ForkedProcess, find_server
from mopt.system.memory import peak_memory
from mopt.system.protocol import rebuild_error, receive_answer
from mopt.system.store import default_root
from mopt.system.watchdog import Watchdog

_LOG_TAIL = 2000
"""Bytes at the end of a child's log in which its last line is looked for."""
_STOPPED_LOOK_SECONDS = 0.001
"""Between two looks at whether a child has stopped."""
_END_SECONDS = 10.0
"""For a process to end after it was killed, and for its pipes to close."""
_ANY_REQUEST = TimeLimit.from_size(0)
_OLD_PROTOCOL = 4
"""In which NumPy 1 reads the arrays of NumPy 2, for a child of another environment."""
_MOPT_ALONE = (
    "import importlib.util, sys; "
    "spec = importlib.util.spec_from_file_location('mopt', {source!r}); "
    "sys.modules['mopt'] = mopt = importlib.util.module_from_spec(spec); spec.loader.exec_module(mopt)"
)
"""Brings this mopt into another Python, and nothing else of this one: libraries of two environments do not mix."""


class Worker:
    """A child process that hosts one object.

    The child dies with its parent, even when the parent is killed, and never sees the terminal's Ctrl-C: the parent
    decides when it ends. What the child prints goes to a log, of which the end is quoted when it crashes. On Windows there is
    none yet: the child inherits its pipes as file descriptors.

    Args:
        factory: Importable callable that makes the hosted object in the child; None for a child that runs one function.
        arguments: Its positional arguments; anything that can be pickled.
        limit: How long the factory may take.
        environment: Variables added to the child's environment, for settings that libraries read when imported.
        modules: Libraries that the hosted object imports: where children are forked, they are imported already.
        python: Interpreter of another environment, of this version of Python and with NumPy and Pydantic in it; None for this
            one's. Such a child is not forked.

    Raises:
        UserError: On Windows.
        CandidateRejectedError: When the child crashes or hangs, or the factory raises anything unforeseen.
    """

    def __init__(
        self,
        factory: Callable[..., Any] | None,
        *arguments: Any,
        limit: TimeLimit = _ANY_REQUEST,
        environment: dict[str, str] | None = None,
        modules: Sequence[str] = (),
        python: Path | None = None,
    ) -> None:
        import psutil

        if os.name == "nt":
            raise UserError("models cannot be run on Windows itself", "use the Windows Subsystem for Linux")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the child
        self._paused = False
        self._protocol = _OLD_PROTOCOL if python else pickle.HIGHEST_PROTOCOL
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        try:
            self._process = self._start(request_read, answer_write, modules, environment or {}, python)
        finally:
            os.close(request_read)
            os.close(answer_write)
        self._child = psutil.Process(self._process.pid)
        self._requests = Connection(request_write, readable=False)
        self._answers = Connection(answer_read, writable=False)
        try:
            if factory is not None:
                self._ask(("new", factory, arguments, {}), limit)
        except BaseException:  # even an interrupt must not leave the child behind; raised again
            self.close()
            raise

    def _start(
        self, request: int, answer: int, modules: Sequence[str], environment: dict[str, str], python: Path | None
    ) -> subprocess.Popen[bytes] | ForkedProcess:
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        if python is not None:  # what finds the cache by itself is not in every environment
            variables.setdefault("MOPT_CACHE", str(default_root()))
        server = None if python else find_server(modules, environment)
        if server is not None:
            with contextlib.suppress(OSError):  # it was killed: a process of its own is as good
                return server.fork(request, answer, self._log.fileno(), variables)
        start = f"from mopt.system.child import serve; serve({request}, {answer}, {os.getpid()})"
        if python is not None:
            source = str(Path(__file__).parents[1] / "__init__.py")
            command = [str(python), "-I", "-c", f"{_MOPT_ALONE.format(source=source)}; {start}"]
        else:
            path = [p or os.getcwd() for p in sys.path]
            command = [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {start}"]
        return subprocess.Popen(
            command,
            pass_fds=(request, answer),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env=variables,
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def call(
        self, method: str, *arguments: Any, limit: TimeLimit = _ANY_REQUEST, memory: int | None = None, **keywords: Any
    ) -> Any:
        """Call a method of the hosted object; its result is JSON data with NumPy arrays in it.

        Args:
            method: Its name.
            *arguments: Anything that can be pickled.
            limit: When it counts as hung.
            memory: Bytes that the child may have resident, with what this process grows by meanwhile; None for any.
            **keywords: As ``arguments``.

        Raises:
            CandidateRejectedError: When the child crashes, hangs, takes too much memory, or raises something that mopt
                did not foresee.
            MoptError: The same error that the child raised, when it is one of mopt's.
        """
        return self._ask(("call", method, arguments, keywords), limit, memory)

    def pause(self) -> None:
        """Stop the child's threads, so that they cannot take a core from another measurement."""
        if not self._paused and self._process.poll() is None:
            self._child.suspend()
            self._wait_until_stopped()
            self._paused = True

    def _wait_until_stopped(self) -> None:
        import psutil

        if isinstance(self._process, ForkedProcess):
            return self._process.wait_until_stopped()
        if hasattr(os, "waitid"):  # it returns when the last thread has stopped; a status is that of the first
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            return None
        while self._child.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(_STOPPED_LOOK_SECONDS)
        return None

    def resume(self) -> None:
        """Let the child's threads go on."""
        if self._paused and self._process.poll() is None:
            self._child.resume()
        self._paused = False

    def peak_memory(self) -> int:
        """Largest resident set of the child so far, in bytes; 0 where it does not answer."""
        if (peak := peak_memory(self.pid)) or self._process.poll() is not None:
            return peak
        paused = self._paused
        with contextlib.suppress(CandidateRejectedError):  # macOS tells it to the process itself alone
            peak = int(self._ask(("peak", None, (), {}), TimeLimit(STARTING)))
        if paused:
            self.pause()
        return peak

    def close(self) -> None:
        """End the child. Safe to call twice."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that the kernel holds ends when it lets go
                self._process.wait(_END_SECONDS)
        for connection in (self._requests, self._answers):
            if not connection.closed:
                connection.close()
        if not self._log.closed:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: tuple[Any, ...], limit: TimeLimit, memory: int | None = None) -> Any:
        if self._requests.closed:
            raise CandidateRejectedError(Rejection.CRASHED, "the process has ended already")
        self.resume()
        buffer = io.BytesIO()
        pickle.Pickler(buffer, protocol=self._protocol).dump(request)
        watch = Watchdog(self._child, limit, memory)
        try:
            with watch:
                self._requests.send_bytes(buffer.getbuffer())
                answer = receive_answer(self._answers, limit.seconds + _END_SECONDS)
            error = rebuild_error(answer["error"]) if "error" in answer else None
            value = None if error else answer["value"]
        except TimeoutError:  # it was killed, and the kernel has not let go of it
            self.close()
            raise watch.verdict or CandidateRejectedError(Rejection.HUNG, "no answer") from None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            if watch.verdict is not None:
                self.close()
                raise watch.verdict from None
            raise self._death() from None
        except (LookupError, TypeError, ValueError, AttributeError) as nonsense:
            self.close()
            raise CandidateRejectedError(Rejection.CRASHED, f"the process answered nonsense: {nonsense}") from None
        if error is not None:
            raise error
        return value

    def _death(self) -> CandidateRejectedError:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        tail = self._log_tail()
        self.close()
        if code < 0:
            name = signal.Signals(-code).name
            memory = " (the system may have run out of memory)" if name == "SIGKILL" else ""
            return CandidateRejectedError(Rejection.CRASHED, f"the process died of {name}{memory}{tail}")
        return CandidateRejectedError(Rejection.CRASHED, f"the process ended with exit code {code}{tail}")

    def _log_tail(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LOG_TAIL))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:300]}" if lines else ""


def run(
    function: Callable[..., Any],
    *arguments: Any,
    limit: TimeLimit = _ANY_REQUEST,
    memory: int | None = None,
    modules: Sequence[str] = (),
    python: Path | None = None,
    **keywords: Any,
) -> Any:
    """Call ``function`` in a child process of its own and return its result (JSON data and NumPy arrays).

    Args:
        function: Importable.
        *arguments: Anything that can be pickled.
        limit: When it counts as hung.
        memory: Bytes that the child may have resident, with what this process grows by meanwhile; None for any.
        modules: Libraries that it imports: where children are forked, they are imported already.
        python: Interpreter of another environment; see :class:`Worker`.
        **keywords: As ``arguments``.

    Raises:
        CandidateRejectedError: When the child crashes, hangs, takes more than ``memory`` bytes in all, or raises
            something that mopt did not foresee.
        MoptError: The same error that the function raised, when it is one of mopt's.
    """
    with Worker(None, modules=modules, python=python) as worker:
        return worker._ask(("run", function, arguments, keywords), limit, memory)


class ChildProcess:
    """What hosts an object in a child process, seen from the parent: measured, stopped and ended from here."""

    _worker: Worker

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._worker.pid

    def peak_bytes(self) -> int:
        """Largest resident memory of the child so far."""
        return self._worker.peak_memory()

    def pause(self) -> None:
        """Stop all its threads."""
        self._worker.pause()

    def resume(self) -> None:
        """Let them go on."""
        self._worker.resume()

    def close(self) -> None:
        """End the child process."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
