"""Run code that may crash, hang or be hostile in a child process.

Requests travel as pickle, because the parent is trusted. Answers travel as JSON and raw array bytes, never as pickle:
the child has loaded a model file, and a model file is hostile input.
"""

from __future__ import annotations

__all__ = ["Worker", "peak_memory", "run"]

import contextlib
import ctypes
import dataclasses
import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mopt.errors import CandidateRejectedError, MissingDependencyError, NotApplicableError, Rejection, UserError
from mopt.system.deadlines import STARTING, TimeLimit

if TYPE_CHECKING:
    import psutil

_LOG_TAIL = 2000
"""Bytes at the end of a child's log in which its last line is looked for."""
_PR_SET_PDEATHSIG = 1
"""From ``<linux/prctl.h>``: the signal that a child gets when its parent dies."""
_LOOK_SECONDS = 0.02
"""Between two looks at the memory of a child, which may grow by a gigabyte in half a second."""
_IDLE_LOOK_SECONDS = 5.0
"""Between two looks at whether a child does anything."""
_IDLE_SHARE = 0.02
"""Of a core that a child takes which does nothing but wait: threads that wait for Python's lock wake up 200 times a second."""
_END_SECONDS = 10.0
"""For a process to end after it was killed, and for its pipes to close."""
_ANY_REQUEST = TimeLimit.from_size(0)
_PROC = Path("/proc")


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
    ) -> None:
        import psutil

        if os.name == "nt":
            raise UserError("models cannot be run on Windows itself", "use the Windows Subsystem for Linux")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the child
        self._paused = False
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        code = (
            f"import sys; sys.path[:] = {[p or os.getcwd() for p in sys.path]!r}; "
            f"from mopt.system.process import _serve; _serve({request_read}, {answer_write}, {os.getpid()})"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(request_read, answer_write),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
        self._child = psutil.Process(self._process.pid)
        os.close(request_read)
        os.close(answer_write)
        self._requests = Connection(request_write, readable=False)
        self._answers = Connection(answer_read, writable=False)
        try:
            if factory is not None:
                self._ask(("new", factory, arguments, {}), limit)
        except BaseException:  # even an interrupt must not leave the child behind; raised again
            self.close()
            raise

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
            memory: Bytes that the child and this process may have resident together meanwhile; None for any.
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

        if hasattr(os, "waitid"):  # it returns when the last thread has stopped; a status is that of the first
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            return
        while self._child.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(_LOOK_SECONDS / 20)

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
        pickle.Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(request)
        watch = _Watch(self._process, self._child, limit, memory)
        try:
            with watch:
                self._requests.send_bytes(buffer.getbuffer())
                answer = _receive(self._answers, limit.seconds + _END_SECONDS)
            error = _rebuild(answer["error"]) if "error" in answer else None
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


class _Watch:
    """Ends a child that does not answer a request in time, does nothing, or takes too much memory.

    It looks from a thread of its own, since the parent may be stuck in sending or receiving as well. Once the child is dead
    its pipes close, which is what the parent wakes up from.

    Attributes:
        verdict: Why the child was ended; None when it was not.
    """

    def __init__(self, process: subprocess.Popen[bytes], child: psutil.Process, limit: TimeLimit, memory: int | None) -> None:
        self.verdict: CandidateRejectedError | None = None
        self._process = process
        self._child = child
        self._limit = limit
        self._memory = memory
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        import psutil

        this_process = psutil.Process()
        start = time.monotonic()
        look = _LOOK_SECONDS if self._memory is not None else _IDLE_LOOK_SECONDS
        activity, next_look = None, start + _IDLE_LOOK_SECONDS
        while not self._done.wait(max(0.0, min(look, start + self._limit.seconds - time.monotonic()))):
            now = time.monotonic()
            if now >= start + self._limit.seconds:
                return self._end(Rejection.HUNG, f"no answer within {self._limit.seconds:.0f} s")
            if self._memory is not None and (taken := _resident(self._child) + _resident(this_process)) > self._memory:
                text = f"took {taken / 1e9:.1f} GB of memory, and {self._memory / 1e9:.1f} GB are allowed"
                return self._end(Rejection.MEMORY, text)
            if now < next_look or self._limit.idle_seconds == float("inf"):
                continue
            next_look = now + _IDLE_LOOK_SECONDS
            seen = _Activity.of(self._child)
            if activity is None or seen.works_since(activity):
                activity = seen
            elif seen.moment - activity.moment >= self._limit.idle_seconds:
                idle = seen.moment - activity.moment
                return self._end(Rejection.HUNG, f"no answer for {now - start:.0f} s, and nothing done for {idle:.0f} s")
        return None

    def _end(self, rejection: Rejection, text: str) -> None:
        self.verdict = CandidateRejectedError(rejection, text)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class _Activity:
    """What a process and those that it started have done so far.

    Attributes:
        moment: On the monotonic clock.
        cpu_seconds: That they have computed.
        transfers: Bytes that they have read and written.
        ready: Whether a thread computes, waits for a core, or for a disk.
    """

    moment: float
    cpu_seconds: float
    transfers: int
    ready: bool

    @classmethod
    def of(cls, process: psutil.Process) -> _Activity:
        """Look at a process now."""
        import psutil

        cpu_seconds, transfers, ready = 0.0, 0, False
        with contextlib.suppress(psutil.Error):
            for member in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = member.cpu_times()
                    cpu_seconds += times.user + times.system
                    counters = member.io_counters() if hasattr(member, "io_counters") else None
                    transfers += sum(counters[:6]) if counters else 0
                ready |= _is_ready(member.pid)
        return cls(time.monotonic(), cpu_seconds, transfers, ready)

    def works_since(self, earlier: _Activity) -> bool:
        """Whether it has done anything since, or would have if it had been given a core."""
        computed = abs(self.cpu_seconds - earlier.cpu_seconds)  # a child that ended takes its own time away
        enough = computed >= _IDLE_SHARE * (self.moment - earlier.moment)
        return self.ready or enough or self.transfers != earlier.transfers


def _is_ready(pid: int) -> bool:
    """Whether any thread is runnable, or waits for a disk; False where the system does not tell."""
    for path in (_PROC / str(pid) / "task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[0] in "RD":
                return True
    return False


def run(
    function: Callable[..., Any],
    *arguments: Any,
    limit: TimeLimit = _ANY_REQUEST,
    memory: int | None = None,
    **keywords: Any,
) -> Any:
    """Call ``function`` in a child process of its own and return its result (JSON data and NumPy arrays).

    Raises:
        CandidateRejectedError: When the child crashes, hangs, takes more than ``memory`` bytes with this process, or raises
            something that mopt did not foresee.
        MoptError: The same error that the function raised, when it is one of mopt's.
    """
    with Worker(None) as worker:
        return worker._ask(("run", function, arguments, keywords), limit, memory)


def _serve(request_fd: int, answer_fd: int, parent: int) -> None:
    _die_with(parent)
    # OpenVINO and NNCF do without it. With it they report to their maker, and leave an identity in the user's home.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    requests = Connection(request_fd, writable=False)
    answers = Connection(answer_fd, readable=False)
    host: Any = None
    while True:
        try:
            request = requests.recv_bytes()
        except EOFError:
            os._exit(0)
        try:
            kind, target, arguments, keywords = pickle.loads(request)  # noqa: S301 it comes from our own parent
            if kind == "new":
                host = target(*arguments, **keywords)
                value = None
            elif kind == "run":
                value = target(*arguments, **keywords)
            elif kind == "peak":
                value = peak_memory(os.getpid())
            else:
                value = getattr(host, target)(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 the edge of the child: whatever it is, the parent decides
            traceback.print_exc()
            answer: dict[str, Any] = {"error": _describe(error)}
        else:
            answer = {"value": value}
        with contextlib.suppress(BrokenPipeError):
            _send(answers, answer)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _end_after(parent: int) -> None:
    """Wait for the end of the parent, and end this process, whatever it is at."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()
    os._exit(1)


def _send(connection: Connection, answer: dict[str, Any]) -> None:
    import numpy as np

    buffers: list[Any] = []

    def encode(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value)
            if array.dtype.kind in "OUS":
                return {"__strings__": [_text(item) for item in array.ravel()], "shape": list(value.shape)}
            buffers.append(array)
            return {"__array__": len(buffers) - 1, "dtype": array.dtype.name, "shape": list(value.shape)}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bytes):
            return _text(value)
        if isinstance(value, dict):
            return {str(key): encode(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [encode(item) for item in value]
        if isinstance(value, Path):
            return str(value)
        return value

    header = json.dumps(encode(answer)).encode()
    connection.send_bytes(header)
    for array in buffers:
        connection.send_bytes(array.reshape(-1).view(np.uint8) if array.size else b"")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _receive(connection: Connection, timeout: float) -> dict[str, Any]:
    import numpy as np

    def take() -> bytes:
        if not connection.poll(timeout):
            raise TimeoutError
        return connection.recv_bytes()

    arrays: dict[int, dict[str, Any]] = {}

    def collect(value: dict[str, Any]) -> Any:
        if "__array__" in value:
            arrays[int(value["__array__"])] = value
        return value

    answer = json.loads(take(), object_hook=collect)
    decoded = {}
    for index in range(len(arrays)):
        spec, data = arrays[index], take()
        decoded[index] = np.frombuffer(bytearray(data), dtype=_dtype(spec["dtype"])).reshape(spec["shape"])

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            if "__array__" in value:
                return decoded[int(value["__array__"])]
            if "__strings__" in value:
                return np.array(value["__strings__"], dtype=object).reshape(value["shape"])
            return {key: decode(item) for key, item in value.items()}
        if isinstance(value, list):
            return [decode(item) for item in value]
        return value

    result: dict[str, Any] = decode(answer)
    return result


def _dtype(name: str) -> Any:
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def _describe(error: Exception) -> dict[str, Any]:
    if isinstance(error, MissingDependencyError):
        return {"kind": "missing", "library": error.library, "extra": error.extra}
    if isinstance(error, UserError):
        return {"kind": "user", "message": error.message, "hint": error.hint}
    if isinstance(error, NotApplicableError):
        return {"kind": "not applicable", "message": error.message}
    if isinstance(error, CandidateRejectedError):
        return {"kind": "rejected", "rejection": str(error.rejection), "message": error.message}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"kind": "full", "message": str(error)}
    if isinstance(error, MemoryError):
        return {"kind": "rejected", "rejection": "memory", "message": "out of memory"}
    first = " ".join(str(error).split())[:400]
    return {"kind": "rejected", "rejection": "failed", "message": f"{type(error).__name__}: {first}"}


def _rebuild(error: dict[str, Any]) -> Exception:
    match error["kind"]:
        case "missing":
            return MissingDependencyError(error["library"], error["extra"])
        case "user":
            return UserError(error["message"], error["hint"])
        case "not applicable":
            return NotApplicableError(error["message"])
        case "full":
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case _:
            return CandidateRejectedError(Rejection(error["rejection"]), error["message"])


def peak_memory(pid: int) -> int:
    """Largest resident set of a process so far, in bytes; 0 where the system does not tell.

    macOS tells it to the process itself alone. psutil has it for Windows alone, so Linux is asked directly: there ``ru_maxrss``
    is no substitute, since it also counts the process that started this one.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import psutil

    with contextlib.suppress(psutil.Error, AttributeError):
        return int(psutil.Process(pid).memory_info().peak_wset)
    return _own_peak() if pid == os.getpid() else 0


def _own_peak() -> int:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident(process: psutil.Process) -> int:
    """Resident set of a process now, in bytes; 0 when it has ended."""
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
