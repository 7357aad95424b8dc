"""What every serving system is: the files that it loads the model from, what they can tell a runtime, and how it is started."""

from __future__ import annotations

__all__ = ["ANY", "EVERYTHING", "Launch", "Ports", "ServingSystem", "Settable", "make_system", "system_name"]

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._releases import check_release
from mopt.errors import NotApplicableError
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment
from mopt.system.plugins import load, name_of

ANY: tuple[object, ...] = ()
"""In place of the values of an option: every value can be set."""


@dataclasses.dataclass(frozen=True)
class Settable:
    """What the files of a serving system can tell one runtime; all else is what the runtime does by itself.

    Attributes:
        options: Options of the runtime that can be set, each with the values that it may be set to.
        otherwise: Where to turn for another value, for people to read.
        by_itself: What the runtime does there besides, for people to read.
        everything: Whether all options can be set to all values, as by a service in Python.
        pads: Whether each batch is padded to the largest, so that a lone request takes as long as a full batch.
    """

    options: Mapping[str, tuple[object, ...]]
    otherwise: str = ""
    by_itself: str = ""
    everything: bool = False
    pads: bool = False

    def takes(self, option: str, value: object) -> bool:
        """Whether an option can be set to a value."""
        if self.everything:
            return True
        return option in self.options and (self.options[option] == ANY or value in self.options[option])


EVERYTHING = Settable({}, by_itself="spinning, memory arenas and graph optimizations, as it was judged", everything=True)
"""Of a service in Python that opens the session itself."""


@dataclasses.dataclass(frozen=True)
class Ports:
    """Free ports of 127.0.0.1 for a server."""

    http: int
    grpc: int
    metrics: int
    others: tuple[int, ...] = ()
    """Three more, for systems that listen on more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """How a server is started on this machine, and how it is asked.

    Attributes:
        command: Program and arguments.
        ready: URLs that answer 200 when it is ready.
        url: What it is asked at: ``http://127.0.0.1:PORT/...`` or ``grpc://127.0.0.1:PORT/...``; see
            :func:`mopt.loadgen.protocols.connect`.
        protocol: What it speaks there, one of :data:`mopt.loadgen.protocols.PROTOCOLS`.
        model: Name of the model on the server, or the route.
        environment: Variables added to its environment.
        folder: Where it is started.
        hopeless: Words in its log after which it will never be ready.
        also: Further URLs, each with what is spoken there; golden samples are replayed at them too.
        report: Where the model, once loaded, says in JSON what it computes in (``precision``, ``threads``, ``streams``,
            ``versions``); None where nothing in
            this server tells. :mod:`mopt.artifacts.serving._files.served_model` writes it to ``$MOPT_SERVED_REPORT``, and a
            line with its size for each batch to the same with ``.batches`` behind it.
        inputs: What it takes by name, for a protocol that does not tell; None where that is what the model takes.
        version: Of the server, for people to read, such as ``tritonserver 2.51.0``.
        not_run: Parts of the system that did not run, each with the reason and with what ran in its place.
    """

    command: Sequence[str | Path]
    ready: Sequence[str]
    url: str
    protocol: str
    model: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    hopeless: Sequence[str] = ()
    also: Sequence[tuple[str, str]] = ()
    report: Path | None = None
    inputs: Mapping[str, TensorSpec] | None = None
    version: str = ""
    not_run: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingSystem(abc.ABC):
    """Writes the folder that one serving system loads, and starts that system on it.

    Attributes:
        release: One of :attr:`releases`, such as ``26.07``; empty for any.
    """

    settable: ClassVar[Mapping[str, Settable]] = {}
    """By runtime, what :meth:`write` can tell it; candidates are judged with nothing else. A runtime that is not here is not
    served."""
    environment: ClassVar[str] = ""
    """The environment of ``mopt tools`` that has the server; empty where it cannot be installed."""
    releases: ClassVar[str] = ""
    """The serving system whose releases can be named; empty where none can. See :mod:`mopt.artifacts.serving._releases`."""
    unmaintained: ClassVar[str] = ""
    """Why nobody should begin with this system; empty where its makers look after it."""
    exported: ClassVar[Exported | None] = None
    """What its server tells Prometheus, of which rules and a dashboard are made; None where it tells nothing."""
    unexported: ClassVar[str] = ""
    """Where its figures are, for people, when they are not in Prometheus."""

    release: str = ""

    @property
    def name(self) -> str:
        """The name of the serving system: its file's, or its entry point's."""
        return name_of(type(self))

    @abc.abstractmethod
    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Fill an empty folder.

        Args:
            folder: Where the files go.
            manifest: What was built, with the batch settings to serve it with; its ``files`` may still be empty.
            model_folder: The model's files, on the same disk; link to them rather than copy.
            golden: Real inputs for a batch of one, for warm-up requests; may be empty.

        Raises:
            NotApplicableError: When this system cannot serve this model.
        """

    def why_unbatched(self, runtime: str, signature: Signature) -> str:
        """Return why requests for a model are not put together, so that a batch is what one client sends; else nothing.

        Args:
            runtime: Name of what executes it.
            signature: Of the model.
        """
        return ""

    def forced(self, runtime: str, signature: Signature) -> Mapping[str, Any]:
        """Return options of a runtime that hold here whatever is asked for, because the server itself decides them.

        Args:
            runtime: Name of what executes the model.
            signature: Of the model.
        """
        return {}

    def exported_by(self, folder: Path) -> Exported | None:
        """Return what the server that runs on these files tells Prometheus; :attr:`exported` but where the files decide.

        Args:
            folder: What :meth:`write` wrote.
        """
        return self.exported

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Check the files with what the system's makers publish for it, without starting it: schemas, protos, loaders.

        Args:
            folder: What :meth:`write` wrote.
            manifest: Of the artifact.
            environment: That of :attr:`environment`; None where it is not installed.
        """
        return ()

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Say how the real system is started on what :meth:`write` wrote; nothing below ``folder`` may change.

        Args:
            folder: What was written.
            manifest: Of the artifact.
            environment: That of :attr:`environment`.
            ports: That it may listen on.
            scratch: An empty folder that is removed when the server has ended.

        Raises:
            NotApplicableError: When it cannot run here, with the reason.
        """
        raise NotApplicableError(f"no server of {self.name} can be installed here")


def system_name(text: str) -> str:
    """Return the name of a serving system without the ``@release`` that may be behind it."""
    return text.partition("@")[0]


def make_system(text: str) -> ServingSystem:
    """Return a serving system by its name, with ``@release`` after it or not: ``triton``, ``triton@26.07``.

    Raises:
        UserError: When there is none of that name, or the release is none of its releases, or it has none to choose from.
    """
    name, _, release = text.partition("@")
    kind: type[ServingSystem] = load("serving", name)
    if release:
        check_release(name, kind.releases, release)
    return kind(release=release)
