"""What runs in a child process: it takes requests until its parent ends."""

from __future__ import annotations

__all__ = ["serve", "without_telemetry"]

import contextlib
import ctypes
import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from mopt.system.memory import peak_memory
from mopt.system.protocol import describe_error, send_answer

_PR_SET_PDEATHSIG = 1
"""From ``<linux/prctl.h>``: the signal that a child gets when its parent dies."""


def serve(request_fd: int, answer_fd: int, parent: int) -> None:
    """Answer requests, and never return.

    Args:
        request_fd: File descriptor from which requests are read.
        answer_fd: The one that answers are written to.
        parent: Id of the process that asks; this one ends with it.
    """
    without_telemetry()
    _die_with(parent)
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
            answer: dict[str, Any] = {"error": describe_error(error)}
        else:
            answer = {"value": value}
        with contextlib.suppress(BrokenPipeError):
            send_answer(answers, answer)


def without_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting to their maker, and from leaving an identity in the user's home."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


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
