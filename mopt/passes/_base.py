"""What every pass is: a frozen dataclass whose fields are all that it depends on."""

from __future__ import annotations

__all__ = ["FilePass", "GraphPass", "Pass", "PassResult", "QuantizingPass", "run_passes"]

import abc
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mopt.model.files import Model
from mopt.model.onnx_io import LIBRARIES
from mopt.model.samples import Samples
from mopt.system.digests import describe_fields
from mopt.system.environments import versions_in
from mopt.system.plugins import code_of, name_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclasses.dataclass(frozen=True)
class PassResult:
    """Whether a pass changed anything, and what is worth telling about it (JSON data)."""

    modified: bool
    detail: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass(abc.ABC):
    """Model in, model out. The input is never modified.

    A pass raises ``NotApplicableError`` when the model is not for it, and anything else when it broke.
    """

    takes: ClassVar[str] = "onnx"
    """The format of a model that it reads; see :mod:`mopt.model.formats`."""
    makes: ClassVar[str] = "onnx"
    """The format that it writes."""
    libraries: ClassVar[tuple[str, ...]] = ("onnx-ir",)
    """Distributions whose version changes the result."""
    extra: ClassVar[str] = ""
    """The extra of mopt that installs what the pass needs, when the core does not."""
    tools: ClassVar[str] = ""
    """The environment of ``mopt tools`` that has these libraries, and whose Python runs it; empty for mopt's own."""
    modules: ClassVar[tuple[str, ...]] = LIBRARIES
    """What it imports that takes long: one process imports it for all passes that name the same."""
    exclusive: ClassVar[bool] = False
    """Whether it times what it makes, so that nothing may run at the same time."""
    resumable: ClassVar[bool] = False
    """Whether it goes on where it was killed: then what it had written is still in its folder when it runs again."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Files that it puts beside the model, for a later pass to read."""
    timeout: ClassVar[float] = 1800.0
    """Seconds after which it counts as hung, whatever it does, as long as it was not measured on the same model before; one
    that does nothing at all is noticed after 30 s."""

    @property
    def name(self) -> str:
        """The name of the pass: its file's, or its entry point's."""
        return name_of(type(self))

    def key(self) -> dict[str, Any]:
        """Everything that the result depends on besides the input, as JSON data."""
        fields = {"pass": self.name, "fields": describe_fields(self), "libraries": versions_in(self.tools, self.libraries)}
        return fields | ({"plugin": code} if (code := code_of(type(self))) else {})

    def samples(self) -> Samples | None:
        """Return the real samples that it was given; None for a pass that has none."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return next((value for value in values if isinstance(value, Samples)), None)

    @abc.abstractmethod
    def apply(self, source: Model, folder: Path) -> PassResult:
        """Read ``source`` and write the result into the empty ``folder``. Runs in a child process."""


class FilePass(Pass):
    """A pass that wraps a library which reads and writes files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizingPass(Pass):
    """A pass that lowers the precision of operators, and can leave some of them in float.

    Mixed precision, ``mopt explain`` and the report work with every one that keeps to this.

    Attributes:
        float_nodes: Names of nodes that stay in float.
    """

    runs_in: ClassVar[tuple[str, ...]] = ("int8",)
    """What a runtime should say of the operators that it lowered; anything else means that it has no kernel for them."""

    float_nodes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it lowers operators to, for engines that are not timed: of each kind one is chosen."""
        return self.name

    def with_float_nodes(self, names: Sequence[str]) -> Self:
        """Return the same pass with these nodes left in float."""
        return dataclasses.replace(self, float_nodes=tuple(sorted(names)))

    def for_ranking(self) -> Self:
        """Return the same pass with nothing but the lowered operators changed, so that their noise is all there is."""
        return self

    def isolated(self) -> Self:
        """Return the same pass without what it does on behalf of nodes in float, so that one operator can be lowered alone."""
        return self


class GraphPass(Pass):
    """A pass on an in-memory ``onnx_ir.Model``, whose weights stay memory-mapped."""

    @abc.abstractmethod
    def rewrite(self, model: ir.Model) -> PassResult:
        """Change ``model`` in place."""

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Load, rewrite and save."""
        from mopt.model.onnx_io import load, save

        model = load(source.file)
        result = self.rewrite(model)
        save(model, folder)
        return result


def run_passes(passes: Sequence[Pass], source: Model, folder: Path) -> list[dict[str, Any]]:
    """Run consecutive passes in this process; graph passes that follow each other share one model in memory.

    Called in a child process. Returns for each pass ``{"modified": ..., "detail": ..., "peak_bytes": ...}``.
    """
    from mopt.model.onnx_io import load, save
    from mopt.system.memory import peak_memory

    os.chdir(folder.parent)  # libraries leave temporary files where they run
    if all(isinstance(step, GraphPass) for step in passes):
        model = load(source.file)
        results = [step.rewrite(model) for step in passes if isinstance(step, GraphPass)]
        save(model, folder)
    else:
        (single,) = passes
        results = [single.apply(source, folder)]
    peak = peak_memory(os.getpid()) or None
    return [{**dataclasses.asdict(result), "peak_bytes": peak} for result in results]
