"""What every pass is: a frozen dataclass whose fields are all that it depends on."""

from __future__ import annotations

__all__ = ["FilePass", "GraphPass", "Pass", "PassResult", "run_passes"]

import abc
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.model.files import Model
from mopt.system.digests import describe_fields, versions

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
    makes: ClassVar[str] = "onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnx-ir",)
    """Distributions whose version changes the result."""
    extra: ClassVar[str] = ""
    """The extra of mopt that installs what the pass needs, when the core does not."""
    timeout: ClassVar[float] = 1800.0
    """Seconds."""

    @property
    def name(self) -> str:
        """The name of the pass: its file's."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def key(self) -> dict[str, Any]:
        """Everything that the result depends on besides the input, as JSON data."""
        return {"pass": self.name, "fields": describe_fields(self), "libraries": versions(self.libraries)}

    @abc.abstractmethod
    def apply(self, source: Model, folder: Path) -> PassResult:
        """Read ``source`` and write the result into the empty ``folder``. Runs in a child process."""


class FilePass(Pass):
    """A pass that wraps a library which reads and writes files."""


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

    Called in a child process. Returns for each pass ``{"modified": ..., "detail": ...}``.
    """
    from mopt.model.onnx_io import load, save

    os.chdir(folder.parent)  # libraries leave temporary files where they run
    if all(isinstance(step, GraphPass) for step in passes):
        model = load(source.file)
        results = [step.rewrite(model) for step in passes if isinstance(step, GraphPass)]
        save(model, folder)
    else:
        (single,) = passes
        results = [single.apply(source, folder)]
    return [dataclasses.asdict(result) for result in results]
