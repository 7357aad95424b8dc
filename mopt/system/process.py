"""Run code that may crash, hang or be hostile in a child process.

Requests travel as pickle, because the parent is trusted. Answers travel as JSON and raw array bytes, never as pickle:
the child has loaded a model file, and a model file is hostile input.
"""

from __future__ import annotations

__all__ = ["Worker", "peak_memory", "run"]

import contextlib
import ctypes
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

if TYPE_CHECKING:
    import psutil

_LOG_TAIL = 2000
"""Bytes at the end of a child's log in which its last line is looked for."""
_PR_SET_PDEATHSIG = 1
"""From ``<linux/prctl.h>``: the signal that a child gets when its parent dies."""
_LOOK_SECONDS = 0.02
"""Between two looks at the memory of a child, which may grow by a gigabyte in half a second."""
_PEAK_SECONDS = 10.0
_PROC = Path("/proc")


class Worker:
    """A child process that hosts one object.

    The child dies with its parent, even when the parent is killed, and never sees the terminal's Ctrl-C: the parent
    decides when it ends. What the child prints goes to a log, of which the end is quoted when it crashes. On Windows there is
    none yet: the child inherits its pipes as file descriptors.

    Args:
        factory: Importable callable that makes the hosted object in the child; None for a child that runs one function.
        arguments: Its positional arguments; anything that can be pickled.
        timeout: Seconds that the factory may take.
        environment: Variables added to the child's environment, for settings that libraries read when imported.

    Raises:
        UserError: On Windows.
        CandidateRejectedError: When the child crashes or hangs, or the factory raises anything unforeseen.
    """

    def __init__(
        self,
        factory: Callable[..., Any] | None,
        *arguments: Any,
        timeout: float = 600.0,
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
                self._ask(("new", factory, arguments, {}), timeout)
        except BaseException:  # even an interrupt must not leave the child behind; raised again
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def call(self, method: str, *arguments: Any, timeout: float = 600.0, memory: int | None = None, **keywords: Any) -> Any:
        """Call a method of the hosted object; its result is JSON data with NumPy arrays in it.

        Args:
            method: Its name.
            *arguments: Anything that can be pickled.
            timeout: Seconds until it counts as hung.
            memory: Bytes that the child and this process may have resident together meanwhile; None for any.
            **keywords: As ``arguments``.

        Raises:
            CandidateRejectedError: When the child crashes, hangs, takes too much memory, or raises something that mopt
                did not foresee.
            MoptError: The same error that the child raised, when it is one of mopt's.
        """
        return self._ask(("call", method, arguments, keywords), timeout, memory)

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
            peak = int(self._ask(("peak", None, (), {}), _PEAK_SECONDS))
        if paused:
            self.pause()
        return peak

    def close(self) -> None:
        """End the child. Safe to call twice."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for connection in (self._requests, self._answers):
            if not connection.closed:
                connection.close()
        if not self._log.closed:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: tuple[Any, ...], timeout: float, memory: int | None = None) -> Any:
        if self._requests.closed:
            raise CandidateRejectedError(Rejection.CRASHED, "the process has ended already")
        self.resume()
        buffer = io.BytesIO()
        pickle.Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(request)
        try:
            self._requests.send_bytes(buffer.getbuffer())
            if memory is not None:
                self._watch(timeout, memory)
            answer = _receive(self._answers, timeout)
            error = _rebuild(answer["error"]) if "error" in answer else None
            value = None if error else answer["value"]
        except TimeoutError:
            self.close()
            raise CandidateRejectedError(Rejection.HUNG, f"no answer within {timeout:.0f} s") from None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._death() from None
        except (LookupError, TypeError, ValueError, AttributeError) as nonsense:
            self.close()
            raise CandidateRejectedError(Rejection.CRASHED, f"the process answered nonsense: {nonsense}") from None
        if error is not None:
            raise error
        return value

    def _watch(self, timeout: float, memory: int) -> None:
        """Wait until the answer begins; end the child when it takes more than ``memory``."""
        import psutil

        deadline, this_process = time.monotonic() + timeout, psutil.Process()
        while not self._answers.poll(_LOOK_SECONDS):
            if time.monotonic() > deadline:
                raise TimeoutError
            taken = _resident(self._child) + _resident(this_process)
            if taken > memory:
                self.close()
                raise CandidateRejectedError(
                    Rejection.MEMORY, f"took {taken / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} GB are allowed"
                )

    def _death(self) -> CandidateRejectedError:
        try:
            code = self._process.wait(timeout=10)
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
    function: Callable[..., Any], *arguments: Any, timeout: float = 600.0, memory: int | None = None, **keywords: Any
) -> Any:
    """Call ``function`` in a child process of its own and return its result (JSON data and NumPy arrays).

    Raises:
        CandidateRejectedError: When the child crashes, hangs, takes more than ``memory`` bytes with this process, or raises
            something that mopt did not foresee.
        MoptError: The same error that the function raised, when it is one of mopt's.
    """
    with Worker(None) as worker:
        return worker._ask(("run", function, arguments, keywords), timeout, memory)


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
