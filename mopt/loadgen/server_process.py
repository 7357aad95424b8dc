"""A real server on ports of this machine, in a process group that is gone when it is no longer needed."""

from __future__ import annotations

__all__ = ["ServerDiedError", "free_ports", "running"]

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mopt.artifacts.serving._base import Launch, Ports
from mopt.errors import UserError

_START_SECONDS = 120.0
_GOODBYE_SECONDS = 8.0
_LOOK_SECONDS = 0.1
_LOG_BYTES = 4000
_LOG_LINES = 12
_TELLING_LINES = 2


class ServerDiedError(UserError):
    """The server ended, said that it is hopeless, or was not ready in time; with the end of its log."""


def free_ports() -> Ports:
    """Return ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(6)]
        http, grpc, metrics, *others = (each.getsockname()[1] for each in sockets)
    return Ports(http, grpc, metrics, tuple(others))


@contextlib.contextmanager
def running(
    launch: Launch, *, seconds: float = _START_SECONDS, cores: Collection[int] | None = None, log: Path | None = None
) -> Iterator[float]:
    """Start a server, wait until all its URLs answer, and end it with all of its children.

    Args:
        launch: What is started.
        seconds: For it to become ready.
        cores: That it may run on.
        log: Where it writes what it says; default: a file that is removed.

    Yields:
        Seconds until it was ready.

    Raises:
        ServerDiedError: When it does not become ready.
    """
    with contextlib.ExitStack() as stack:
        path = log or Path(stack.enter_context(tempfile.NamedTemporaryFile()).name)
        file = stack.enter_context(path.open("wb"))
        start = time.monotonic()
        process = _start(launch, file.fileno(), cores)
        try:
            for url in launch.ready:
                _wait(process, url, path, start + seconds, launch)
            yield time.monotonic() - start
        finally:
            _end(process)


def _start(launch: Launch, log: int, cores: Collection[int] | None) -> subprocess.Popen[bytes]:
    report = {"MOPT_SERVED_REPORT": str(launch.report)} if launch.report else {}
    try:
        return subprocess.Popen(
            list(map(str, launch.command)),
            cwd=launch.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **report, **launch.environment},
            start_new_session=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
    except OSError as error:
        raise ServerDiedError(f"{launch.command[0]} cannot be started: {error.strerror}", "install it again") from None


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, deadline: float, launch: Launch) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the machine is not asked for 127.0.0.1
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), opener.open(url, timeout=5):
            return
        text = log.read_text(errors="replace")
        if any(word in text for word in launch.hopeless):
            break
        time.sleep(_LOOK_SECONDS)
    state = "is not ready" if process.poll() is None else f"ended with {process.returncode}"
    raise ServerDiedError(
        f"{launch.version or launch.command[0]} {state}: {_tail(log, launch.hopeless)}", "look at what it says"
    )


def _tail(log: Path, hopeless: Sequence[str] = ()) -> str:
    """The first lines that say why it is hopeless; else the last lines."""
    telling = [line for line in log.read_text(errors="replace").splitlines() if any(word in line for word in hopeless)]
    lines = telling[:_TELLING_LINES] or log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").splitlines()[-_LOG_LINES:]
    return " | ".join(" ".join(line.split()) for line in lines if line.strip()) or "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask politely, for a server has children and shared memory to clear away; then end the whole group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GOODBYE_SECONDS
    while time.monotonic() < deadline and _group_lives(process):
        time.sleep(_LOOK_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether anybody of its group is left; the first is waited for, so that it does not count once it has ended."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
