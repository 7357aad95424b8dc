"""Runtimes, passes and exporters that hang, for ever, as often as a test says: what mopt does about it is real."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from mopt.exporters.onnx import ExportOnnx
from mopt.model.files import Model
from mopt.model.signature import Feed
from mopt.passes._base import FilePass, PassResult
from mopt.runtimes._base import Session
from mopt.runtimes.onnxruntime import OnnxRuntime

ALWAYS = 10**6


def plan(path: Path, times: int) -> str:
    """Let whoever is given the path hang so many times, in whatever process."""
    path.write_text(str(times))
    return str(path)


def left(path: str) -> int:
    """How many times it is still going to hang."""
    return int(Path(path).read_text())


def hang(path: str) -> None:
    """Wait for a lock that this thread holds, if there is a hang left."""
    remaining = left(path)
    if remaining:
        Path(path).write_text(str(remaining - 1))
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


@dataclasses.dataclass(frozen=True, kw_only=True)
class HangingRuntime(OnnxRuntime):
    """ONNX Runtime that hangs.

    Attributes:
        hangs: What :func:`plan` has written.
        after: Inferences of a process before the one that hangs; -1 for loading.
        fewest_sessions: Of a process, before any hangs: 2 for several instances alone.
    """

    hangs: str
    after: int = 0
    fewest_sessions: int = 1
    opened: ClassVar[int] = 0

    def open(self, path: Path) -> Session:
        HangingRuntime.opened += 1
        if self.after < 0:
            hang(self.hangs)
        session: Any = _HangingSession(super().open(path), self)
        return session


class _HangingSession:
    def __init__(self, session: Session, runtime: HangingRuntime) -> None:
        self._session = session
        self._runtime = runtime
        self._runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def bind(self, feed: Feed) -> Callable[[], object]:
        return functools.partial(self.run, feed)

    def run(self, feed: Feed) -> Feed:
        if self._runs == self._runtime.after and HangingRuntime.opened >= self._runtime.fewest_sessions:
            hang(self._runtime.hangs)
        self._runs += 1
        return self._session.run(feed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstRunsMeet(OnnxRuntime):
    """As OpenVINO's binding: the first inferences of a process wait for each other for ever when they meet."""

    inside: ClassVar[int] = 0
    initialised: ClassVar[bool] = False

    def open(self, path: Path) -> Session:
        session: Any = _Meeting(super().open(path))
        return session


class _Meeting:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def bind(self, feed: Feed) -> Callable[[], object]:
        return functools.partial(self.run, feed)

    def run(self, feed: Feed) -> Feed:
        if not FirstRunsMeet.initialised:
            FirstRunsMeet.inside += 1
            threading.Event().wait(0.3)
            if FirstRunsMeet.inside > 1:
                threading.Event().wait()
            FirstRunsMeet.initialised = True
        return self._session.run(feed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HangingPass(FilePass):
    """Copies the model, or hangs with half of it written."""

    timeout: ClassVar[float] = 8.0

    hangs: str

    def apply(self, source: Model, folder: Path) -> PassResult:
        if left(self.hangs):
            (folder / "half").write_text("of a model")
        hang(self.hangs)
        ir.save(ir.load(source.file), folder / "model.onnx")
        return PassResult(True, {"files": sorted(path.name for path in folder.iterdir())})


@dataclasses.dataclass(frozen=True, kw_only=True)
class HangingExporter(ExportOnnx):
    """Takes ONNX, and hangs when it exports or when it answers."""

    timeout: ClassVar[float] = 8.0

    exporting: str
    answering: str

    def apply(self, folder: Path) -> PassResult:
        if left(self.exporting):
            (folder / "half").write_text("of a model")
        hang(self.exporting)
        return super().apply(folder)

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        hang(self.answering)
        return super().reference(feeds)


class Told:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, title: str, total: int) -> None:
        pass

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Ignore it."""

    def step(self, note: str = "") -> None:
        self.lines.append(note)

    def note(self, text: str) -> None:
        self.lines.append(text)

    @property
    def retries(self) -> list[str]:
        """What was said of processes that hung."""
        return [line for line in self.lines if "trying once more" in line]


@contextlib.contextmanager
def planned(folder: Path, times: int) -> Iterator[str]:
    """A plan whose hangs have all happened at the end."""
    path = plan(folder / "hangs", times)
    yield path
    assert left(path) == 0
