"""Export a PyTorch module, from the function that makes it or from an exported program."""

from __future__ import annotations

__all__ = ["ExportTorch"]

import dataclasses
import functools
import inspect
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.datasets.spec import ImageSpec, SourceDefaults
from mopt.errors import UserError
from mopt.exporters import _python_source as python_source
from mopt.exporters._base import DynamicAxes, Exporter, require
from mopt.exporters._dynamic_axes import holder, proof_of
from mopt.exporters._image_preprocessing import from_timm, from_torchvision
from mopt.model.signature import BATCH, Feed
from mopt.passes._base import PassResult
from mopt.system.digests import digest
from mopt.system.plugins import nearest

if TYPE_CHECKING:
    import onnx_ir as ir

_OPSET = 18
"""What torch's exporter writes natively; another opset would go through a converter."""
_WEIGHTS_ONLY = (".pt", ".pth", ".ckpt", ".bin")
_BY_HAND = "give file.py:function with an example input, or an .onnx file"
_RETURNS = "return (module, example_inputs): a module, and a tensor, a tuple or a dict of them"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportTorch(Exporter):
    """Run ``torch.onnx.export(dynamo=True)`` with a dynamic batch, on CPU and in evaluation mode.

    The source is ``file.py:function`` or ``package.module:function``, a function without arguments that returns
    ``(module, example_inputs)``; the examples are one tensor, a tuple of positional arguments or a dict of keyword
    arguments. Or it is a ``.pt2`` file, whose dimensions are as dynamic as they were exported. The first axis of every
    example that has the first example's length there is the batch; where the module does not take another batch, the
    example's size is kept and ``detail["batch"]`` says why.

    Further axes become dynamic that are asked for; where the module holds one to the example's length, the error names the
    line of the code that does. That the export is right at another length is seen before it is used.

    Random generators are seeded before the function runs, so that an untrained module has the same weights each time.
    """

    accepts: ClassVar[str] = "PyTorch (file.py:function, package.module:function, or .pt2)"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnxscript", "onnx-ir")
    extra: ClassVar[str] = "torch"

    dynamic: tuple[tuple[str, int, str], ...] = ()
    """Axes whose length is left free: the input, the axis, and what the length is called."""

    @classmethod
    def matches(cls, source: str) -> bool:
        """Whether it names a function, or a file that PyTorch writes."""
        return python_source.split(source) is not None or source.lower().endswith((".pt2", *_WEIGHTS_ONLY))

    def files(self) -> dict[str, Path]:
        """Return the Python file or the exported program."""
        if self._is_program:
            return {"program": Path(self.source)}
        self._refuse_weights()
        return {"code": python_source.module_file(self.source)}

    def digest(self, read: Sequence[str] = ()) -> str:
        """SHA-256 over the files and the name of the function."""
        function = python_source.split(self.source)
        return digest({"files": super().digest(read), "function": function[1] if function else ""})

    def environment(self) -> dict[str, str]:
        """An exported program may hold pickles: then torch must refuse them. The user's own code is trusted."""
        return {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"} if self._is_program else {}

    def apply(self, folder: Path) -> PassResult:
        """Export; inputs are called as the arguments of ``forward``, outputs as in the dict it returns."""
        require("torch", self.extra)
        require("onnxscript", self.extra)
        with python_source.files_read() as read:
            module, arguments, keywords = self._loaded
        dynamic = None if self._is_program else self.dynamic_axes
        detail = export_module(module, arguments, keywords, folder, dynamic=dynamic)
        if dynamic:
            names = _input_names(module, arguments, keywords)
            arrays = [leaf.detach().numpy() for leaf in _leaves(arguments, keywords)]
            run = functools.partial(run_module, module, arguments, keywords)
            detail |= proof_of(run, folder / "model.onnx", dict(zip(names, arrays, strict=True)), dynamic)
        source_files = {str(path.resolve()) for path in self.files().values()}
        return PassResult(True, {**detail, "read": sorted(read - source_files)} if not self._is_program else detail)

    def brings(self) -> SourceDefaults:
        """Return how timm or torchvision prepares pictures for the module, where it carries what says so."""
        module, arguments, keywords = self._loaded
        return _brought(module, _leaves(arguments, keywords))

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run the module itself."""
        module, arguments, keywords = self._loaded
        return list(run_module(module, arguments, keywords, feeds))

    @property
    def dynamic_axes(self) -> DynamicAxes:
        """By input."""
        axes: dict[str, dict[int, str]] = {}
        for name, axis, length in self.dynamic:
            axes.setdefault(name, {})[axis] = length
        return axes

    def with_dynamic_axes(self, axes: DynamicAxes) -> ExportTorch | None:
        """Leave these axes free; an exported program has its own."""
        if self._is_program:
            return None
        free = tuple((name, axis, length) for name, lengths in sorted(axes.items()) for axis, length in sorted(lengths.items()))
        return dataclasses.replace(self, dynamic=free)

    @property
    def _is_program(self) -> bool:
        return self.source.lower().endswith(".pt2")

    def _refuse_weights(self) -> None:
        if self.source.lower().endswith(_WEIGHTS_ONLY) and python_source.split(self.source) is None:
            raise UserError(
                f"{self.source} holds weights (a pickle), which are not a model without the code that they belong to",
                "give file.py:function that builds the module and loads them with torch.load(..., weights_only=True), "
                "or save it with torch.export.save as .pt2",
            )

    @functools.cached_property
    def _loaded(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return the module or exported program, and its example arguments."""
        self._refuse_weights()
        torch = require("torch", self.extra)
        if self._is_program:
            program = _load_program(Path(self.source))
            arguments, keywords = program.example_inputs or ((), {})
            return program, tuple(arguments), dict(keywords)
        _seed()
        function = python_source.load_function(self.source)
        try:
            made = function()
        except Exception as error:  # user code: whatever it raises is the user's to mend
            raise UserError(f"{self.source} raised {type(error).__name__}: {error}", "run it by hand") from error
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)):
            raise UserError(f"{self.source} must {_RETURNS}; it returned {type(made).__name__}", "see mopt build --help")
        module, examples = made
        arguments, keywords = _arguments(examples)
        if not _leaves(arguments, keywords):
            raise UserError(f"{self.source} gives no example input", _RETURNS)
        return module.cpu().eval(), arguments, keywords


def _load_program(path: Path) -> Any:
    import zipfile

    import torch

    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not an exported program, or is truncated", "write it with torch.export.save")
    try:
        return torch.export.load(str(path))
    except Exception as error:  # torch unpickles and deserializes, and raises whatever a damaged file leads to
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be loaded: {reason}", "write it with torch.export.save and this torch") from error


def _seed() -> None:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def _arguments(examples: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(examples, Mapping):
        return (), dict(examples)
    return (tuple(examples), {}) if isinstance(examples, tuple | list) else ((examples,), {})


def _leaves(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any]:
    """Return the example tensors in the order of the exported model's inputs."""
    import torch
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves((arguments, keywords)) if isinstance(leaf, torch.Tensor)]


def _brought(module: Any, leaves: Sequence[Any]) -> SourceDefaults:
    """Look at the module and what it is made of, one level down: a softmax may have been put behind it."""
    children = list(module.children()) if hasattr(module, "children") else []
    for part in (module, *children):
        config = getattr(part, "pretrained_cfg", None)
        if isinstance(config, Mapping) and {"mean", "std"} <= set(config) and leaves and leaves[0].dim() == 4:
            image = from_timm(config, tuple(leaves[0].shape[2:]))
            return SourceDefaults(image=image) if isinstance(image, ImageSpec) else SourceDefaults(left_out=image)
        for value in (*getattr(part, "__dict__", {}).values(), *getattr(part, "_modules", {}).values()):
            weights = value if hasattr(value, "transforms") and hasattr(value, "meta") else None
            preset = weights.transforms() if weights else value
            if type(preset).__name__ == "ImageClassification" and hasattr(preset, "crop_size"):
                classes = tuple(weights.meta.get("categories") or ()) if weights else ()
                return SourceDefaults(image=from_torchvision(preset), classes=classes)
    return SourceDefaults()


def export_module(
    module: Any,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    folder: Path,
    *,
    dynamic: DynamicAxes | None,
) -> dict[str, Any]:
    """Export a module in evaluation mode, or an exported program.

    Args:
        module: ``torch.nn.Module`` or ``torch.export.ExportedProgram``.
        arguments: Positional examples.
        keywords: Keyword examples, in the order of the signature.
        folder: Where the model goes.
        dynamic: Names of the axes of each input that must become dynamic; the batch of every input becomes so as well, if
            that can be done; None where the program has them already.

    Returns:
        What to tell about it.

    Raises:
        UserError: When the module holds such an axis to the example's length.
    """
    from mopt.model.onnx_io import save

    names = _input_names(module, arguments, keywords)
    if dynamic is None:
        save(_export(module, arguments, keywords, names, None).model, folder)
        return {}
    _check_axes(dynamic, names, _leaves(arguments, keywords))
    batch = _batch_axes(_leaves(arguments, keywords), names)
    axes = {name: {**batch.get(name, {}), **dynamic.get(name, {})} for name in names}
    reason = ""
    try:
        model = _export(module, *_doubled(arguments, keywords, names, axes), names, axes).model
        reason = _fixed(model, batch)
    except Exception as error:  # whatever the exporter cannot do with a dynamic batch
        if axes == dynamic:
            raise
        reason = _reason(error)
    if reason and axes != dynamic:
        model = _export(module, *_doubled(arguments, keywords, names, dynamic), names, dynamic).model
    _refuse_held(model, module, arguments, keywords, names, dynamic)
    save(model, folder)
    return {"batch": f"fixed to that of the example: {reason}"} if reason else {}


def _check_axes(dynamic: DynamicAxes, names: Sequence[str], leaves: Sequence[Any]) -> None:
    """Refuse axes that the user named and the module does not have."""
    ranks = {name: leaf.dim() for name, leaf in zip(names, leaves, strict=True)}
    for name, lengths in dynamic.items():
        if name not in ranks:
            raise UserError(f"the module has no input {name}, which dynamic_axes names", nearest(name, names))
        for axis in lengths:
            if not 0 <= axis < ranks[name]:
                raise UserError(f"{name} has no axis {axis}, which dynamic_axes names", f"it has axes 0 to {ranks[name] - 1}")


def _refuse_held(
    model: ir.Model,
    module: Any,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    names: list[str],
    dynamic: DynamicAxes,
) -> None:
    """Raise when the export has one of the axes fixed; torch is asked again, strictly, which line of the code does that."""
    reason = _fixed(model, dynamic)
    if not reason:
        return
    shapes = _dynamic_shapes(module, *_doubled(arguments, keywords, names, dynamic), names, dynamic)
    line = holder(_runnable(module), *_doubled(arguments, keywords, names, dynamic), shapes)
    raise UserError(f"{reason}{f', in {line}' if line else ''}", _BY_HAND)


def _fixed(model: ir.Model, axes: DynamicAxes) -> str:
    """Return which axis torch has fixed although it was asked not to; empty when none is."""
    for value in model.graph.inputs:
        for axis in axes.get(str(value.name), {}):
            if isinstance(value.shape[axis], int):
                return f"the module holds axis {axis} of {value.name} to {value.shape[axis]}"
    return ""


def _batch_axes(leaves: list[Any], names: list[str]) -> dict[str, dict[int, str]]:
    first = next((leaf.shape[0] for leaf in leaves if leaf.dim()), None)
    return {name: {0: BATCH} for name, leaf in zip(names, leaves, strict=True) if leaf.dim() and leaf.shape[0] == first}


def _doubled(
    arguments: tuple[Any, ...], keywords: dict[str, Any], names: list[str], axes: DynamicAxes
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make a batch of two of a batch of one, and so of every other axis: torch takes a length of 1 for a constant."""
    import torch
    from torch.utils import _pytree as pytree

    pending = iter(names)

    def double(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        for axis in axes.get(next(pending), {}):
            leaf = torch.cat([leaf, leaf], dim=axis) if leaf.shape[axis] == 1 else leaf
        return leaf

    doubled: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(double, (arguments, keywords))
    return doubled


def _export(
    module: Any,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    names: list[str],
    axes: DynamicAxes | None,
) -> Any:
    """Return torch's ONNX program."""
    import torch

    shapes = _dynamic_shapes(module, arguments, keywords, names, axes) if axes else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        outputs = _named_outputs(_runnable(module)(*arguments, **keywords), names)
        return torch.onnx.export(
            module,
            arguments,
            kwargs=keywords,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=names,
            output_names=list(outputs),
            opset_version=_OPSET,
            verbose=False,
        )


def _dynamic_shapes(
    module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], names: list[str], axes: DynamicAxes
) -> dict[str, Any]:
    """Return what torch takes for them. A fresh Dim for each call: torch keeps what it learned of one."""
    import torch
    from torch.utils import _pytree as pytree

    dims = {name: torch.export.Dim(name) for of_input in axes.values() for name in of_input.values()}
    pending = iter(names)

    def shape(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return None
        return {axis: dims[name] for axis, name in axes.get(next(pending), {}).items()}

    positional, named = pytree.tree_map(shape, (arguments, keywords))
    return {**dict(zip(_parameters(module), positional, strict=False)), **named}


def _parameters(module: Any) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _input_names(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[str]:
    """Name each tensor after its argument; tensors inside a list or dict get its place there as well."""
    import torch
    from torch.utils import _pytree as pytree

    if not hasattr(module, "forward"):
        leaves = pytree.tree_leaves((arguments, keywords))
        inputs = module.graph_signature.user_inputs
        return [str(name) for name, leaf in zip(inputs, leaves, strict=True) if isinstance(leaf, torch.Tensor)]
    parameters, names = _parameters(module), []
    for argument, value in (*zip(parameters, arguments, strict=False), *keywords.items()):
        for path, leaf in pytree.tree_leaves_with_path(value):
            if isinstance(leaf, torch.Tensor):
                names.append(_join(argument, path))
    return names


def run_module(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], feeds: Sequence[Feed]) -> Iterator[Feed]:
    """Run a module or exported program on feeds; inputs and outputs are called as in its export."""
    import torch
    from torch.utils import _pytree as pytree

    names, runnable = _input_names(module, arguments, keywords), _runnable(module)
    leaves, tree = pytree.tree_flatten((arguments, keywords))
    with torch.no_grad():
        for feed in feeds:
            pending = iter(names)
            values = [
                torch.from_numpy(feed[next(pending)].copy()) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
            ]
            positional, named = pytree.tree_unflatten(values, tree)
            outputs = _named_outputs(runnable(*positional, **named), names)
            yield {name: value.detach().cpu().numpy() for name, value in outputs.items()}


def _runnable(module: Any) -> Any:
    return module if hasattr(module, "forward") else module.module()


def _named_outputs(result: Any, taken: Sequence[str]) -> dict[str, Any]:
    """Name each tensor of what ``forward`` returned: by its key in a dict, by its place in a tuple."""
    import torch
    from torch.utils import _pytree as pytree

    groups = result.items() if isinstance(result, Mapping) else [("output", result)]
    outputs = {}
    for key, value in groups:
        for path, leaf in pytree.tree_leaves_with_path(value):
            if isinstance(leaf, torch.Tensor):
                name = _join(str(key), path)
                outputs[f"output_{name}" if name in taken else name] = leaf
    return outputs


def _join(name: str, path: Sequence[Any]) -> str:
    return "_".join([name, *(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)])


def _reason(error: BaseException) -> str:
    """Return the innermost cause in one line; torch wraps it in a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
