"""Give the symbolic dimensions of inputs and outputs names that mean something."""

from __future__ import annotations

__all__ = ["ConvertDimensions"]

import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from mopt.model.signature import BATCH
from mopt.passes._base import GraphPass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir

_MACHINE_MADE = re.compile(r"\?|-1|None|unk__\d+|unk\d+|dim_\d+|DynamicDimension.*|p2o\..*|s\d+|", re.IGNORECASE)
"""What frameworks call a dimension when nobody named it."""
_VALID = re.compile(r"[A-Za-z_]\w*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertDimensions(GraphPass):
    """Name the batch dimension ``batch``, and every dimension without a good name ``<tensor>_dim<axis>``.

    Two dimensions called ``?`` are not the same one, and a runtime that takes them for one refuses real inputs: so each gets
    its own name. Good names stay, a machine-made name that several axes share becomes one new name for all of them, and
    fixed sizes stay, unless ``batch_axes`` or ``free`` says that the declared size is wrong. Inputs and outputs are never
    renamed. Shapes inside the graph follow where that is certain, and lose the dimension where it is not.

    Attributes:
        batch_axes: ``(tensor, axis)`` of each input and output that is known to stack samples along that axis.
        ranks: ``(tensor, rank)`` of each output whose shape the graph does not declare.
        free: ``(tensor, axis)`` of each output that came out with another size than the one that the graph declares.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx-ir",)

    batch_axes: tuple[tuple[str, int], ...] = ()
    ranks: tuple[tuple[str, int], ...] = ()
    free: tuple[tuple[str, int], ...] = ()

    def rewrite(self, model: ir.Model) -> PassResult:
        """Rename dimensions; ``detail["named"]`` maps ``tensor[axis]`` to the new name."""
        import onnx_ir as ir

        graph = model.graph
        ranks = dict(self.ranks)
        for value in graph.outputs:
            if value.shape is None and value.name in ranks:
                value.shape = ir.Shape([None] * ranks[value.name])
        boundary = [value for value in (*graph.inputs, *graph.outputs) if value.shape is not None]
        names = self._choose(boundary)
        renamed: dict[str, set[str]] = collections.defaultdict(set)
        new_names = {}
        for value in boundary:
            for axis, old in self._named(value):
                renamed[old].add(names[str(value.name), axis])
                if old != names[str(value.name), axis]:
                    new_names[f"{value.name}[{axis}]"] = names[str(value.name), axis]
        if not new_names:
            return PassResult(False)
        for value in boundary:
            sizes = [names.get((str(value.name), axis), size) for axis, size in enumerate(value.shape)]
            value.shape = ir.Shape(sizes)
        _follow(model, boundary, renamed)
        return PassResult(True, {"named": new_names})

    def _choose(self, boundary: list[ir.Value]) -> dict[tuple[str, int], str]:
        """Return the name of each symbolic dimension by tensor and axis."""
        batch = set(self.batch_axes)
        symbols = [(str(value.name), axis, old) for value in boundary for axis, old in self._named(value)]
        taken = {old for *_, old in symbols if _is_good(old)} | {BATCH}
        chosen: dict[tuple[str, int], str] = {}
        shared: dict[str, str] = {}
        for tensor, axis, old in symbols:
            if (tensor, axis) in batch:
                name = BATCH
            elif _is_good(old) and not (old == BATCH and batch):
                name = old
            elif old in shared:
                name = shared[old]
            else:
                name = _fresh(f"{_identifier(tensor)}_dim{axis}", taken)
                if _is_shareable(old):
                    shared[old] = name
            chosen[tensor, axis] = name
        return chosen

    def _named(self, value: ir.Value) -> Iterator[tuple[int, str]]:
        """Yield the dimensions that get a name: the symbolic ones, and those of which the declared number is wrong."""
        symbols = dict(_symbols(value))
        for axis, size in enumerate(value.shape):
            if axis in symbols:
                yield axis, symbols[axis]
            elif (value.name, axis) in self.batch_axes:
                yield axis, str(size)
            elif (value.name, axis) in self.free:
                yield axis, ""


def _symbols(value: ir.Value) -> Iterator[tuple[int, str]]:
    """Yield axis and name of each dimension that is not a number; the name is empty when there is none."""
    for axis, size in enumerate(value.shape):
        if not isinstance(size, int):
            yield axis, str(size.value) if size.value is not None else ""
        elif size < 0:
            yield axis, "-1"


def _is_good(name: str) -> bool:
    return _MACHINE_MADE.fullmatch(name) is None and _VALID.fullmatch(name) is not None


def _is_shareable(name: str) -> bool:
    """Whether two axes of this name are meant to be one dimension: it was given by a program, yet it is a name."""
    return name not in ("", "?", "-1", "None")


def _identifier(tensor: str) -> str:
    return re.sub(r"\W+", "_", tensor).strip("_") or "x"


def _fresh(name: str, taken: set[str]) -> str:
    candidate, index = name, 2
    while candidate in taken:
        candidate, index = f"{name}_{index}", index + 1
    taken.add(candidate)
    return candidate


def _follow(model: ir.Model, boundary: list[ir.Value], renamed: dict[str, set[str]]) -> None:
    """Bring the shapes inside the graph into line with its boundary."""
    import onnx_ir as ir

    outside = set(map(id, boundary))
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.shape is None or id(value) in outside:
                continue
            symbols = dict(_symbols(value))
            if symbols and any(renamed.get(old) != {old} for old in symbols.values()):
                value.shape = ir.Shape(
                    [_inner(symbols[axis], renamed) if axis in symbols else size for axis, size in enumerate(value.shape)]
                )


def _inner(old: str, renamed: dict[str, set[str]]) -> str | None:
    if not _is_shareable(old):
        return None
    new = renamed.get(old, {old})
    return next(iter(new)) if len(new) == 1 else None
