"""What every exporter is: the way from one kind of source to ONNX, and the source's own answers to compare with."""

from __future__ import annotations

__all__ = [
    "OPTIONAL_INPUTS",
    "DynamicAxes",
    "Exporter",
    "Written",
    "apply_in_child",
    "brought_in_child",
    "open_onnxruntime",
    "reference_in_child",
    "rename_inputs",
    "rename_outputs",
    "require",
    "run_onnxruntime",
]

import abc
import dataclasses
import importlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.datasets.spec import SourceDefaults
from mopt.errors import MissingDependencyError
from mopt.model.signature import Feed, Signature
from mopt.passes._base import PassResult
from mopt.storage._fetch import called
from mopt.system.deadlines import STARTING, TimeLimit
from mopt.system.digests import describe_fields, digest, file_digest, versions
from mopt.system.files import make_empty
from mopt.system.hangs import retry_hung
from mopt.system.plugins import code_of, name_of
from mopt.system.process import Worker

if TYPE_CHECKING:
    import onnx_ir as ir


DynamicAxes = Mapping[str, Mapping[int, str]]
"""Input -> axis -> what its length is called; two axes of one name have the same length in every sample."""
OPTIONAL_INPUTS = "constants that were inputs with a default"
"""What the detail of an export calls their names."""
_IDLE_SECONDS = 120.0
"""After which code of the user that does nothing at all counts as hung."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exporter(abc.ABC):
    """Source in, ONNX out. The source is never modified.

    It is a plugin among the passes, but it starts from what the user has, not from a :class:`~mopt.model.files.Model`:
    so it is a sibling of ``Pass`` and not one.

    Attributes:
        source: What the user calls the model: a file, a folder, or ``file.py:function``.
    """

    takes: ClassVar[str] = "source"
    makes: ClassVar[str] = "onnx"
    accepts: ClassVar[str]
    """What it takes, in the words of the command line."""
    libraries: ClassVar[tuple[str, ...]] = ("onnx-ir",)
    """Distributions whose version changes the result."""
    extra: ClassVar[str] = ""
    """The extra of mopt that installs what the exporter needs, when the core does not."""
    timeout: ClassVar[float] = 1800.0
    """Seconds after which it counts as hung, whatever it does; one that does nothing at all is noticed after 120 s."""

    source: str

    @property
    def name(self) -> str:
        """The name of the exporter: its file's, or its entry point's."""
        return name_of(type(self))

    @property
    def called(self) -> str:
        """What people call the source: its URL where it was fetched from one."""
        return called(self.source)

    @classmethod
    @abc.abstractmethod
    def matches(cls, source: str) -> bool:
        """Whether this exporter is the one for ``source``; looks at names, never into the model."""

    @abc.abstractmethod
    def files(self) -> dict[str, Path]:
        """Return the files that the source is made of, as far as they can be known without running it.

        The keys tell them apart and do not depend on where the source lies.
        """

    @abc.abstractmethod
    def apply(self, folder: Path) -> PassResult:
        """Write the model into the empty ``folder``. Runs in a child process.

        ``detail["read"]`` lists the files that were read besides :meth:`files`: only a run can tell what a program reads.
        """

    @abc.abstractmethod
    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run the source in its own framework, one feed after the other. Runs in a child process."""

    def brings(self) -> SourceDefaults:
        """Return what belongs to the source besides the model, for what the recipe does not say. Runs in a child process."""
        return SourceDefaults()

    def environment(self) -> dict[str, str]:
        """Variables for the child process, for settings that libraries read when they are imported."""
        return {}

    @property
    def dynamic_axes(self) -> DynamicAxes:
        """The axes that were asked to be left free, besides the batch."""
        return {}

    def with_dynamic_axes(self, axes: DynamicAxes) -> Exporter | None:
        """Return an exporter that leaves these axes free, besides the batch; None when the source has its shapes fixed."""
        return None

    def cautious(self) -> Exporter | None:
        """Return an exporter that changes less, for when this one's result is wrong; None when there is none."""
        return None

    def with_inputs(self, names: Collection[str]) -> Exporter:
        """Return an exporter that keeps inputs of these names, which would become constants by their default."""
        return self

    def digest(self, read: Sequence[str] = ()) -> str:
        """SHA-256 over every byte of the source; ``read`` names files that a run has shown to be part of it."""
        file_digests = {name: file_digest(path) for name, path in self.files().items()}
        return digest({**file_digests, **{path: file_digest(Path(path)) if Path(path).is_file() else "" for path in read}})

    def key(self) -> dict[str, Any]:
        """Everything besides the source's content that the result depends on, as JSON data."""
        fields = {name: value for name, value in describe_fields(self).items() if name != "source"}
        key = {"pass": self.name, "fields": fields, "libraries": versions(self.libraries)}
        return key | ({"plugin": code} if (code := code_of(type(self))) else {})


@dataclasses.dataclass(frozen=True)
class Written:
    """What an exporter wrote, what the source brings, and how many seconds it took, with its process and the imports."""

    result: PassResult
    brings: dict[str, Any]
    signature: Signature
    opset: int
    seconds: float


class _Host:
    """An exporter in the child process."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def apply(self, folder: Path) -> dict[str, Any]:
        from mopt.model.onnx_io import load
        from mopt.model.onnx_signature import signature_of

        result = self._exporter.apply(folder)
        model = load(folder / "model.onnx")
        signature = signature_of(model).model_dump(mode="json")
        opset = model.opset_imports.get("", 0)
        return {"result": dataclasses.asdict(result), "brings": self.brings(), "signature": signature, "opset": opset}

    def brings(self) -> dict[str, Any]:
        return self._exporter.brings().model_dump(mode="json", exclude_defaults=True)

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        return self._exporter.reference(feeds)


def apply_in_child(exporter: Exporter, folder: Path, memory: int | None = None) -> Written:
    """Export in a child process; where it hangs, once more in a fresh one, from an empty folder.

    Args:
        exporter: Of the source.
        folder: Empty; the model is written into it.
        memory: Bytes that the child and this process may take together; None for any.

    Raises:
        CandidateRejectedError: When the framework crashes, fails, takes too much memory, or hangs twice.
    """

    def attempt() -> Written:
        start = time.monotonic()
        reply = _ask(exporter, "apply", folder, limit=_unmeasured(exporter), memory=memory)
        seconds = time.monotonic() - start
        signature = Signature.model_validate(reply["signature"])
        return Written(PassResult(**reply["result"]), reply["brings"], signature, reply["opset"], seconds)

    def again() -> Written:
        make_empty(folder)
        return attempt()

    return retry_hung(f"exporting {exporter.called}", attempt, again)


def brought_in_child(exporter: Exporter) -> SourceDefaults:
    """Return what belongs to a source, without exporting it.

    Raises:
        UserError: When the source cannot be read.
        CandidateRejectedError: When the framework crashes, fails, or hangs twice.
    """
    if type(exporter).brings is Exporter.brings:
        return SourceDefaults()

    def attempt() -> SourceDefaults:
        limit = _unmeasured(exporter)
        with Worker(_Host, exporter, limit=limit, environment=exporter.environment()) as worker:
            return SourceDefaults.model_validate(worker.call("brings", limit=limit))

    return retry_hung(f"reading {exporter.called}", attempt, attempt)


def reference_in_child(
    exporter: Exporter, feeds: Sequence[Feed], seconds: float | None = None, memory: int | None = None
) -> list[Feed]:
    """Run the source framework in a child process; where it hangs, once more in a fresh one.

    Args:
        exporter: Of the source.
        feeds: Its inputs.
        seconds: What exporting took, which loads the source and traces or runs it; None where that is not known.
        memory: Bytes that the child and this process may take together; None for any.

    Raises:
        CandidateRejectedError: When the framework crashes, fails, takes too much memory, or hangs twice.
    """
    limit = _unmeasured(exporter)
    if seconds is not None:
        expected = TimeLimit.from_expected(seconds * (1 + len(feeds)), at_least=STARTING)
        limit = limit.within(expected.seconds)

    def attempt() -> list[Feed]:
        outputs: list[Feed] = _ask(exporter, "reference", list(feeds), limit=limit, memory=memory)
        return outputs

    return retry_hung(f"running {exporter.called}", attempt, attempt)


def _ask(exporter: Exporter, method: str, argument: Any, limit: TimeLimit, memory: int | None) -> Any:
    with Worker(_Host, exporter, limit=limit, environment=exporter.environment()) as worker:
        return worker.call(method, argument, limit=limit, memory=memory)


def _unmeasured(exporter: Exporter) -> TimeLimit:
    """The user's code may wait for a while, for a download say, before it counts as idle."""
    return TimeLimit(exporter.timeout, idle_seconds=_IDLE_SECONDS)


def require(module: str, extra: str) -> Any:
    """Import an optional library.

    Raises:
        MissingDependencyError: When it is not installed; the hint is the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(str(error.name or module).partition(".")[0], extra) from error


def open_onnxruntime(path: Path) -> Callable[[Feed], Feed]:
    """Load a model as it is written, with every graph optimisation off; return what runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


def run_onnxruntime(path: Path, feeds: Sequence[Feed]) -> list[Feed]:
    """Run a model as it is written on one feed after the other."""
    return list(map(open_onnxruntime(path), feeds))


def rename_outputs(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give outputs the names that people know; a name that is taken inside the graph is freed first."""
    _rename(model, model.graph.outputs, names)


def rename_inputs(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give inputs the names that people know; a name that is taken inside the graph is freed first."""
    _rename(model, model.graph.inputs, names)


def _rename(model: ir.Model, values: Sequence[ir.Value], names: Mapping[str, str]) -> None:
    new_names = {new for old, new in names.items() if old != new}
    renamed = [value for value in values if names.get(str(value.name), value.name) != value.name]
    for value in _values(model):
        if value.name in new_names and value not in renamed:
            value.name = f"{value.name}__inner"
    for value, new in [(value, names[str(value.name)]) for value in renamed]:
        value.name = new


def _values(model: ir.Model) -> list[ir.Value]:
    every_value = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        every_value.extend(node.outputs)
    return every_value
