"""What every runtime is, and the session that it opens in a child process."""

from __future__ import annotations

__all__ = ["HostedProcess", "Runtime", "Session", "SessionProcess", "make_runtime"]

import abc
import dataclasses
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from mopt.errors import CandidateRejectedError, MissingDependencyError, Rejection, UserError
from mopt.model.files import Model
from mopt.model.signature import Feed, TensorSpec
from mopt.records.measurement import LayerCost, OperatorCost
from mopt.system.deadlines import MEASURED, STARTING, Pace, TimeLimit
from mopt.system.digests import describe_fields
from mopt.system.environments import interpreter_of, versions_in
from mopt.system.forkserver import prestart
from mopt.system.hangs import named, retry_hung
from mopt.system.plugins import code_of, load, name_of
from mopt.system.process import ChildProcess, Worker

_Answer = TypeVar("_Answer")
_PROFILED = 3
"""How many times longer an inference takes with the profiler; and how many warm it up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime(abc.ABC):
    """Options of a runtime; they and the library's version are all that a session depends on.

    Attributes:
        threads: Threads for one inference, set explicitly so that candidates are comparable.
    """

    formats: ClassVar[tuple[str, ...]]
    """Formats of a model that it loads; see :mod:`mopt.model.formats`."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """What it runs on: ``cpu``, ``gpu``."""
    libraries: ClassVar[tuple[str, ...]]
    """Distributions whose version changes what is measured."""
    extra: ClassVar[str] = ""
    tools: ClassVar[str] = ""
    """The environment of ``mopt tools`` that has these libraries, and whose Python opens sessions; empty for mopt's own."""
    side_by_side: ClassVar[tuple[int, ...]] = ()
    """How many instances share a device that has no cores to be divided; none where the cores decide."""
    unset: ClassVar[Mapping[str, Any]] = {}
    """Options that may be left to the library, with the value that says so: what runs where nobody can set them."""

    threads: int

    @property
    def name(self) -> str:
        """The name of the runtime: its file's, or its entry point's."""
        return name_of(type(self))

    @classmethod
    def supports(cls, device: str, isa: Sequence[str]) -> bool:
        """Whether it is for targets of this device and these instruction sets."""
        return device in cls.devices

    def resolved(self, isa: Sequence[str]) -> Self:
        """Return the same with what the library picks by itself on a CPU of these instruction sets written out."""
        return self

    def key(self) -> dict[str, Any]:
        """Everything that a session depends on besides the model, as JSON data."""
        fields = {"runtime": self.name, "fields": describe_fields(self), "libraries": versions_in(self.tools, self.libraries)}
        return fields | ({"plugin": code} if (code := code_of(type(self))) else {})

    @property
    def module(self) -> str:
        """What is imported before loading is timed."""
        return self.libraries[0]

    @abc.abstractmethod
    def open(self, path: Path) -> Session:
        """Load a model file. Called in a child process only."""

    def unavailable(self) -> str:
        """Return why no session can be opened on this machine; nothing when it can."""
        return ""

    def fallback(self, model: Model) -> tuple[Model, Runtime]:
        """Return what answers for a model on this machine: another form of it where the model itself cannot run here."""
        return model, self

    def prestart(self) -> None:
        """Let a process import what sessions need, while something else is waited for."""
        if not self.tools:
            prestart(_forkable(self), self.environment())

    def environment(self) -> dict[str, str]:
        """Variables for the child process, for settings that the library reads when it is imported."""
        return {"OMP_NUM_THREADS": str(self.threads)}


def make_runtime(name: str, fields: Mapping[str, Any]) -> Runtime:
    """Make the runtime that a manifest names.

    Raises:
        UserError: When there is no such runtime, or this mopt does not know one of its options.
    """
    kind: type[Runtime] = load("runtimes", name)
    if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(kind)}):
        raise UserError(f"the manifest asks {name} for {', '.join(unknown)}", "build it again with this mopt")
    return kind(**fields)


class Session(abc.ABC):
    """A loaded model, in the child process."""

    @abc.abstractmethod
    def run(self, feed: Feed) -> Feed:
        """Return all outputs by name."""

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Return a call that runs these inputs, with as much of the way to the library done before as can be.

        It is what is timed: a server in C++ pays for no conversion of arrays in Python, which takes longer than some models.
        """
        return lambda: self.run(feed)

    @abc.abstractmethod
    def specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Return inputs and outputs as the runtime sees them; dimensions without a name are called ``?``."""

    @abc.abstractmethod
    def evidence(self) -> dict[str, Any]:
        """Return what is really executed: operator counts by arithmetic type, as JSON data.

        ``precision`` is the arithmetic that the library itself reports, such as ``int8+bf16``, and ``threads`` and ``streams``
        are how many; each is left out where the library does not tell.
        """

    def device_times(self, feed: Feed) -> dict[str, Any]:
        """Return what the device itself takes, without transfers, as JSON data; nothing where there is no device apart."""
        return {}

    @abc.abstractmethod
    def operators(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Return the fields of an ``OperatorCost`` for each type and arithmetic, per inference.

        The model is loaded again with the runtime's profiler, so that the session that is measured stays without.
        """

    @abc.abstractmethod
    def layers(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Return the fields of a ``LayerCost`` for each node, per inference, as :meth:`operators` measures it."""


class _Host:
    """The object that lives in the child: a session and the loop that times it."""

    def __init__(self, runtime: Runtime, path: Path) -> None:
        _import(runtime)
        start = time.perf_counter()
        self._session = runtime.open(path)
        self._load_ms = (time.perf_counter() - start) * 1e3
        self._first_ms = 0.0

    def load_ms(self) -> float:
        return self._load_ms

    def first_ms(self) -> float:
        return self._first_ms

    def run(self, feed: Feed) -> Feed:
        start = time.perf_counter()
        outputs = self._session.run(feed)
        self._first_ms = self._first_ms or (time.perf_counter() - start) * 1e3
        return outputs

    def specs(self) -> list[list[dict[str, Any]]]:
        return [[spec.model_dump() for spec in group] for group in self._session.specs()]

    def evidence(self) -> dict[str, Any]:
        return self._session.evidence()

    def device_times(self, feed: Feed) -> dict[str, Any]:
        return self._session.device_times(feed)

    def operators(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        return self._session.operators(feed, repeats)

    def layers(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        return self._session.layers(feed, repeats)

    def time(self, feeds: Sequence[Feed], seconds: float, least: int) -> list[float]:
        if not self._first_ms:
            self.run(feeds[0])
        calls = [self._session.bind(feed) for feed in feeds]
        clock = time.perf_counter_ns
        latencies: list[float] = []
        end = clock() + int(seconds * 1e9)
        while len(latencies) < least or clock() < end:
            call = calls[len(latencies) % len(calls)]
            start = clock()
            call()
            latencies.append((clock() - start) / 1e6)
        return latencies


def _forkable(runtime: Runtime) -> tuple[str, ...]:
    """What may be imported before forking: what drives a GPU must not be."""
    return (__name__, runtime.module) if set(runtime.devices) == {"cpu"} else (__name__,)


def _import(runtime: Runtime) -> None:
    try:
        importlib.import_module(runtime.module)
    except ModuleNotFoundError as error:
        if error.name != runtime.module:
            raise
        if runtime.extra:
            raise MissingDependencyError(runtime.module, runtime.extra) from None
        raise CandidateRejectedError(Rejection.SKIPPED, f"{runtime.module} is not installed") from None


_PACES: dict[tuple[str, str, int], Pace] = {}
"""Of what was loaded before in this run: the next process of the same model is as fast."""


class HostedProcess(ChildProcess, abc.ABC):
    """What hosts models in a child process, seen from the parent.

    A child that hangs is replaced by a fresh one, once, and asked again.

    Args:
        runtime: What runs the model.
        model: What the child loads.
        instances: How often it loads it.
    """

    def __init__(self, runtime: Runtime, model: Model, instances: int = 1) -> None:
        self._runtime = runtime
        self._model = model
        self._instances = instances
        self._subject = named(runtime.name)
        self._replaced = self._lost = False
        self._worker = self._retry(self._start)
        self._pace = _PACES.setdefault(self._load_key, Pace(self._unmeasured()))

    @abc.abstractmethod
    def _host(self) -> tuple[Any, ...]:
        """Return the class of the object in the child, and its arguments."""

    @property
    def _load_key(self) -> tuple[str, str, int]:
        return repr(self._runtime), self._model.digest, self._instances

    def _unmeasured(self) -> TimeLimit:
        return TimeLimit.from_size(self._model.size * self._instances)

    def _start(self) -> Worker:
        limit = MEASURED.limit(self._load_key, self._unmeasured())
        start = time.monotonic()
        worker = Worker(
            *self._host(),
            limit=limit,
            environment=self._runtime.environment(),
            modules=_forkable(self._runtime),
            python=interpreter_of(self._runtime.tools),
        )
        self._load_seconds = time.monotonic() - start
        MEASURED.note(self._load_key, self._load_seconds)
        return worker

    def _retry(self, ask: Callable[[], _Answer], restart: Callable[[], None] = lambda: None) -> _Answer:
        """Ask; where the child hangs, restart and ask again, unless that has been done before."""

        def again() -> _Answer:
            self._replaced = True
            restart()
            return ask()

        try:
            return retry_hung(self._subject, ask, None if self._replaced else again)
        except CandidateRejectedError:
            self._lost = True
            raise

    def _call(self, method: str, *arguments: Any, limit: TimeLimit, warm: Callable[[], Any] = lambda: None) -> Any:
        """Ask the child; ``warm`` prepares a fresh one that takes the place of one that hung."""

        def restart() -> None:
            self._worker = self._start()
            warm()

        return self._retry(lambda: self._worker.call(method, *arguments, limit=limit), restart)

    @property
    def lost(self) -> bool:
        """Whether it has crashed, failed or hung twice: nothing that it measures counts any more."""
        return self._lost


class SessionProcess(HostedProcess):
    """A session in a child process, seen from the parent.

    Raises:
        CandidateRejectedError: From any call, when the runtime crashes, fails, or hangs twice.
    """

    def _host(self) -> tuple[Any, ...]:
        return _Host, self._runtime, self._model.file

    def run(self, feed: Feed) -> Feed:
        """Return all outputs by name."""
        size, start = _size(feed), time.monotonic()
        outputs: Feed = self._call("run", feed, limit=self._pace.limit(size))
        self._pace.note(size, time.monotonic() - start)
        return outputs

    def run_finite(self, feed: Feed) -> Feed:
        """Like :meth:`run`, and reject the candidate when a floating-point output has a NaN or an infinity."""
        import numpy as np

        outputs = self.run(feed)
        for name, value in outputs.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise CandidateRejectedError(Rejection.NOT_FINITE, f"output {name} has NaN or infinite values")
        return outputs

    def time(self, feeds: Sequence[Feed], seconds: float, least: int = 1) -> list[float]:
        """Run again and again for ``seconds``, at least ``least`` times; return each latency in milliseconds."""
        size = max(map(_size, feeds))
        limit = self._pace.limit(size, max(1, least), planned=seconds)

        def warm() -> None:
            self._worker.call("time", list(feeds), 0.0, max(2, least), limit=limit)

        latencies: list[float] = self._call("time", list(feeds), seconds, least, limit=limit, warm=warm)
        self._pace.note(size, max(latencies) / 1e3, latencies[-1] / 1e3)
        return latencies

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Return inputs and outputs as the runtime sees them."""
        inputs, outputs = self._call("specs", limit=self._after_loading())
        return tuple(TensorSpec(**spec) for spec in inputs), tuple(TensorSpec(**spec) for spec in outputs)

    def evidence(self) -> dict[str, Any]:
        """Return what is really executed."""
        executed: dict[str, Any] = self._call("evidence", limit=self._after_loading())
        return executed

    def device_times(self, feed: Feed) -> dict[str, Any]:
        """Return what the device itself takes, without transfers; nothing where there is no device apart."""
        times: dict[str, Any] = self._call("device_times", feed, limit=self._unmeasured())
        return times

    def operators(self, feed: Feed, *, repeats: int = 20) -> tuple[OperatorCost, ...]:
        """Return where the time of an inference goes, the most expensive first.

        Args:
            feed: Inputs; shapes, and with them operations and bytes, are those that it leads to.
            repeats: Inferences that times are averaged over.
        """
        costs = self._call("operators", feed, repeats, limit=self._after_loading(repeats))
        return tuple(OperatorCost(**cost) for cost in costs)

    def layers(self, feed: Feed, *, repeats: int = 20) -> tuple[LayerCost, ...]:
        """Return where the time of an inference goes, node by node, the most expensive first."""
        costs = self._call("layers", feed, repeats, limit=self._after_loading(repeats))
        return tuple(LayerCost(**cost) for cost in costs)

    def _after_loading(self, inferences: int = 0) -> TimeLimit:
        """What may load the model again, and run it under the profiler; unmeasured unless it has run before."""
        if inferences and not self._pace.slowest:
            return self._unmeasured()
        profiled = _PROFILED * (inferences + _PROFILED) * self._pace.slowest if inferences else 0.0
        return TimeLimit.from_expected(self._load_seconds + profiled, at_least=STARTING)

    def load_ms(self) -> float:
        """Milliseconds that loading took, imports left out."""
        return float(self._call("load_ms", limit=TimeLimit(STARTING)))

    def first_ms(self) -> float:
        """Milliseconds that the first inference took; 0 when there was none yet."""
        return float(self._call("first_ms", limit=TimeLimit(STARTING)))


def _size(feed: Feed) -> int:
    """Bytes of the inputs."""
    return sum(value.nbytes for value in feed.values())
