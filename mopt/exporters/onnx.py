"""Take in an ONNX file: check it, gather its external data, bring it up to a current opset."""

from __future__ import annotations

__all__ = ["ExportOnnx"]

import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import UserError
from mopt.exporters._base import OPTIONAL_INPUTS, Exporter, run_onnxruntime
from mopt.exporters._onnx_sparse import make_dense
from mopt.exporters._onnx_structure import find_problem, graphs_of, tensor_bytes, tensors_of
from mopt.model.signature import Feed
from mopt.passes._base import PassResult
from mopt.profiles.machine import detect

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

OLDEST_OPSET = 7
"""ONNX Runtime takes none that is older."""
CURRENT_OPSET = 17
"""From here on LayerNormalization is an operator, and every quantizer and converter knows the opset."""
CURRENT_IR_VERSION = 8
"""The one that came with operator set 17."""
_BIG_TENSOR_BYTES = 4096
"""Shapes, axes and the like are smaller: they are all that the version converter looks into."""
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_DEFAULTS_IR_VERSION = 4
"""From here on an input with an initializer is meant to be one that has a default; before, every initializer was an input."""
_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training"})
_RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental", "com.ms.internal.nhwc"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOnnx(Exporter):
    """Copy a ``.onnx`` file, with its weights memory-mapped.

    Initializers stop being inputs, as files of IR version 3 have them, the model's own functions are written out where they are
    called, and the maps that skl2onnx gives for probabilities become arrays. A custom operator, and external data that is
    missing, cut off or outside of the model's folder, is the user's mistake. Nothing else of the graph is touched.

    Attributes:
        raise_opset: Convert an opset below 17 to 17 where the version converter can; whoever exports compares the outputs.
        inline_functions: Let the operators of functions stand in the graph, where passes find them.
        kept_inputs: Inputs with a default that stay inputs, from now on without it; the others become constants.
    """

    accepts: ClassVar[str] = "an ONNX file (.onnx)"
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")

    raise_opset: bool = True
    inline_functions: bool = True
    kept_inputs: tuple[str, ...] = ()

    @classmethod
    def matches(cls, source: str) -> bool:
        """Whether it is called ``.onnx``."""
        return source.lower().endswith(".onnx") and not Path(source).is_dir()

    def cautious(self) -> ExportOnnx | None:
        """Return the exporter that keeps the opset; after it, the one that keeps functions too."""
        if self.raise_opset:
            return dataclasses.replace(self, raise_opset=False)
        return dataclasses.replace(self, inline_functions=False) if self.inline_functions else None

    def with_inputs(self, names: Collection[str]) -> ExportOnnx:
        """Return the exporter that keeps these inputs, which have a default."""
        return dataclasses.replace(self, kept_inputs=tuple(sorted(names)))

    def files(self) -> dict[str, Path]:
        """Return the model file and its external data."""
        path = Path(self.source)
        external = list(_external(_parse(path)))
        _check_size(path, sum(map(tensor_bytes, external)))
        locations = set(map(tensor_location, external))
        return {"model": path, **{location: path.parent / location for location in sorted(locations)}}

    def apply(self, folder: Path) -> PassResult:
        """Write the model as it is, but for its opset and for initializers that are inputs."""
        from mopt.model.onnx_io import save

        path = Path(self.source)
        model, flattened = _load(path)
        before = model.opset_imports[""]
        defaults = (model.ir_version or 0) >= _DEFAULTS_IR_VERSION
        optional = _free_initializers(model, self.kept_inputs)
        detail: dict[str, Any] = {"opset": before}
        detail |= {OPTIONAL_INPUTS: optional} if optional and defaults else {}
        detail |= {"arrays instead of maps": flattened} if flattened else {}
        functions = len(model.functions)
        if functions and self.inline_functions:
            model, failure = _inlined(model)
            detail |= {"functions kept because": failure} if failure else {"functions written out": functions}
        if self.raise_opset and before < CURRENT_OPSET:
            model, failure = _raised(model)
            detail |= {"opset": model.opset_imports[""], "raised from opset": before} if not failure else {}
            detail |= {"opset kept because": failure} if failure else {}
        save(model, folder)
        changed = bool(optional or flattened or functions or self.kept_inputs) or model.opset_imports[""] != before
        return PassResult(changed, detail)

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run the original file with every graph optimisation off; maps are given as arrays, in the order of their keys."""
        return [
            {name: _array(value) for name, value in outputs.items()} for outputs in run_onnxruntime(Path(self.source), feeds)
        ]


def load_checked(path: Path) -> ir.Model:
    """Load a model whose external data and operators are fit to be used.

    Raises:
        UserError: When it is no ONNX model, its data is not where it must be, or it has custom operators.
    """
    return _load(path)[0]


def _load(path: Path) -> tuple[ir.Model, list[str]]:
    """Return a checked model, and the names of its outputs that were maps."""
    from onnx import TensorProto
    from onnx_ir import external_data

    from mopt.model.onnx_io import BIG_TENSOR_BYTES, INLINE_LIMIT, from_proto

    proto = _parse(path)
    flattened = _flatten_maps(proto)
    for value in [*proto.graph.input, *proto.graph.output]:
        if (kind := value.type.WhichOneof("value")) not in ("tensor_type", None):
            raise UserError(
                f"{path}: {value.name} is a {str(kind).removesuffix('_type')}, and only tensors can be inputs and outputs",
                "export the model with tensors only",
            )
    for graph in graphs_of(proto):
        make_dense(graph)
    inlined = list(_external(proto, smaller_than=BIG_TENSOR_BYTES))  # big ones stay on the disk until they are needed
    if (size := sum(map(tensor_bytes, inlined))) >= INLINE_LIMIT:
        raise UserError(
            f"{path} has {size / 1e9:.1f} GB of external data that belong to no weight of the main graph",
            f"export it with initializers instead of Constant operators; {INLINE_LIMIT / 1e9:.1f} GB are the most",
        )
    for tensor in inlined:
        with (path.parent / tensor_location(tensor)).open("rb") as stream:
            stream.seek(int(next((entry.value for entry in tensor.external_data if entry.key == "offset"), 0)))
            tensor.raw_data = stream.read(tensor_bytes(tensor))
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    try:
        model = from_proto(proto)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is not a valid ONNX model: {_first_line(error)}", _DAMAGED) from None
    external_data.set_base_dir(model.graph, str(path.parent))
    _check_operators(path, model)
    return model, flattened


_DAMAGED = "export or download it again; was it cut off?"


def _parse(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except DecodeError:
        raise UserError(f"{path} is not an ONNX model, or is truncated ({path.stat().st_size} bytes)", _DAMAGED) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "give a file that you may read") from None
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        raise UserError(f"{path} is not an ONNX model, or is truncated: it has no operators or no outputs", _DAMAGED)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is not None and opset < OLDEST_OPSET:
        raise UserError(
            f"{path} has opset {opset}, and ONNX Runtime starts at {OLDEST_OPSET}", "export it again with a newer opset"
        )
    if problem := find_problem(proto):
        raise UserError(f"{path} is not a valid ONNX model: {problem}", _DAMAGED)
    for tensor in _external(proto):
        _check_external(path, tensor)
    return proto


def _flatten_maps(proto: onnx.ModelProto) -> list[str]:
    """Let outputs that are a map for each row, as skl2onnx gives by default, be the arrays that the maps are made of.

    Returns the names of these outputs. Columns are in the order of the operator's class labels.
    """
    from onnx import TensorProto

    outputs = {value.name: value for value in proto.graph.output}
    flattened = []
    for node in proto.graph.node:
        if node.op_type != "ZipMap" or node.domain != "ai.onnx.ml" or outputs.keys().isdisjoint(node.output[:1]):
            continue
        classes = sum(len(attribute.ints) + len(attribute.strings) for attribute in node.attribute)
        kind = outputs[node.output[0]].type
        kind.Clear()
        kind.tensor_type.elem_type = TensorProto.FLOAT  # the only type that the operator takes
        kind.tensor_type.shape.dim.add().CopyFrom(_rows(proto))
        kind.tensor_type.shape.dim.add().dim_value = classes
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        flattened.append(node.output[0])
    return flattened


def _rows(proto: onnx.ModelProto) -> onnx.TensorShapeProto.Dimension:
    from onnx import TensorShapeProto

    sizes = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    return next((dims[0] for dims in sizes if dims), TensorShapeProto.Dimension(dim_param="batch"))


def _array(value: Any) -> Any:
    import numpy as np

    if isinstance(value, list):
        return np.array([list(row.values()) for row in value], dtype=np.float32)
    return value


def _external(proto: onnx.ModelProto, smaller_than: int | None = None) -> Iterator[onnx.TensorProto]:
    """Yield every tensor with external data, wherever it is.

    ``smaller_than`` leaves out initializers of the main graph that have as many bytes.
    """
    from onnx import TensorProto

    stored = proto.graph.initializer if smaller_than is not None else ()
    big = {tensor.name for tensor in stored if tensor_bytes(tensor) >= (smaller_than or 0)}
    for graph in graphs_of(proto):
        for tensor in tensors_of(graph):
            if tensor.data_location == TensorProto.EXTERNAL and not (graph is proto.graph and tensor.name in big):
                yield tensor


def tensor_location(tensor: onnx.TensorProto) -> str:
    """Return the relative path of a tensor's external data."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _check_external(path: Path, tensor: onnx.TensorProto) -> None:
    keys = [entry.key for entry in tensor.external_data]
    if len(set(keys)) < len(keys) or not _EXTERNAL_KEYS.issuperset(keys):
        raise UserError(
            f"{path}: tensor {tensor.name} has external data with entries that are unknown or there twice", _DAMAGED
        )
    location = tensor_location(tensor)
    data = _inside(path, location)
    numbers = {entry.key: entry.value for entry in tensor.external_data if entry.key in ("offset", "length")}
    if not all(re.fullmatch(r"[0-9]{1,19}", number, re.ASCII) for number in numbers.values()):
        raise UserError(f"{path}: tensor {tensor.name} has an offset or length that is no number of bytes", _DAMAGED)
    size, wanted = data.stat().st_size, tensor_bytes(tensor)
    end = int(numbers.get("offset", 0)) + max(int(numbers.get("length", 0)), wanted)
    if end > size:
        text = f"the external data {location} of {path} is truncated: tensor {tensor.name} ends at byte {end} of {size}"
        raise UserError(text, _DAMAGED)
    if "length" in numbers and int(numbers["length"]) < wanted:
        text = f"{path}: tensor {tensor.name} has {numbers['length']} bytes of external data, and its shape asks for {wanted}"
        raise UserError(text, _DAMAGED)


def _check_size(path: Path, weights: int) -> None:
    """Refuse weights that no pass could hold before hours are spent on reading them: a file may be made of holes."""
    if weights > (memory := detect().memory_bytes):
        raise UserError(
            f"the weights of {path} take {weights / 1e9:.0f} GB, and this machine has {memory / 1e9:.0f} GB of memory",
            "take a machine that has more memory",
        )


def _inside(path: Path, location: str) -> Path:
    """Return the file of external data, which must be in the model's own folder."""
    folder = path.parent
    data = folder / location
    rule = "external data must be a file in the model's own folder, or below it"
    if not location or os.path.isabs(location) or ".." in Path(location).parts:
        raise UserError(f"{path} points to external data outside of its folder: {location!r}", rule)
    try:
        inside, there = data.resolve().is_relative_to(folder.resolve()), data.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # no name for a file, or a link to itself
        raise UserError(f"{path} points to external data that cannot be: {_first_line(error)}", rule) from None
    if not inside:
        raise UserError(f"the external data {location} of {path} is a link out of its folder", f"{rule}; copy it with cp -rL")
    if not there:
        raise UserError(f"the external data of {path} is missing: {location}", f"put {location} next to the model")
    if data.stat().st_nlink > 1:  # ONNX takes it for an attempt to read a file of somebody else
        raise UserError(f"the external data {location} of {path} is a hard link", f"{rule}; copy it with cp")
    return data


def _check_operators(path: Path, model: ir.Model) -> None:
    local_functions = {(function.domain, function.name) for function in model.functions.values()}
    nodes = [*model.graph.all_nodes(), *(node for function in model.functions.values() for node in function.all_nodes())]
    for node in nodes:
        is_known = node.domain in _STANDARD_DOMAINS | _RUNTIME_DOMAINS or (node.domain, node.op_type) in local_functions
        if not is_known:
            raise UserError(
                f"{path} has a custom operator: {node.op_type} of the domain {node.domain}",
                "mopt runs standard operators and ONNX Runtime's own; export the model without it",
            )
    model.opset_imports.setdefault("", model.opset_imports.pop("ai.onnx", CURRENT_OPSET))


def _free_initializers(model: ir.Model, kept: Collection[str]) -> list[str]:
    """Make constants of the inputs that have an initializer, but for ``kept``, which lose it; return the other names."""
    for name in kept:
        if name in model.graph.initializers:
            model.graph.initializers.pop(name).const_value = None
    freed = [value for value in model.graph.inputs if value.name in model.graph.initializers]
    if freed:
        model.graph.inputs[:] = [value for value in model.graph.inputs if value not in freed]
        model.ir_version = max(model.ir_version or 0, _DEFAULTS_IR_VERSION)
    return [str(value.name) for value in freed]


def _inlined(model: ir.Model) -> tuple[ir.Model, str]:
    """Return the model with its functions written out where they are called, or as it is and the reason why."""
    import onnx_ir as ir

    from mopt.model.onnx_io import without_weights

    proto, big = without_weights(model)
    try:
        inlined = _inline(ir.from_proto(proto))
    except Exception as error:  # noqa: BLE001 - the inliner raises whatever its C++ code throws
        return model, f"they cannot be written out: {_first_line(error)}"
    used = {node.domain for node in inlined.graph.all_nodes()}
    for domain in {function.domain for function in model.functions.values()} - used:
        inlined.opset_imports.pop(domain, None)
    return _with_weights(inlined, model, big), ""


def _inline(model: ir.Model) -> ir.Model:
    """Inline with onnx_ir; with ONNX's own inliner where a function is of another operator set, which that one converts."""
    import onnx
    import onnx_ir as ir
    from onnx import inliner
    from onnx_ir.passes import common

    functions = list(model.functions.values())
    imports = [entry for function in functions for entry in function.opset_imports.items()]
    if all(model.opset_imports.get(domain, version) == version for domain, version in imports):
        common.InlinePass()(model)
        return model
    for node in [*model.graph.all_nodes(), *(node for function in functions for node in function.all_nodes())]:
        callee = model.functions.get(node.op_identifier())
        for name, attribute in callee.attributes.items() if callee is not None else ():
            if attribute.value is not None:  # ONNX's inliner forgets defaults
                node.attributes.setdefault(name, attribute)
    typed = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    return ir.from_proto(inliner.inline_local_functions(typed, convert_version=True))


def _raised(model: ir.Model) -> tuple[ir.Model, str]:
    """Return the model with a current opset, or as it is and the reason why."""
    import onnx_ir as ir
    from onnx import version_converter

    from mopt.model.onnx_io import without_weights

    if model.functions:
        return model, "the version converter cannot convert a model with functions of its own"
    proto, big = without_weights(model)
    proto.ir_version = max(proto.ir_version, CURRENT_IR_VERSION)
    try:
        converted = ir.from_proto(version_converter.convert_version(proto, CURRENT_OPSET))
        converted.ir_version = max(converted.ir_version or 0, CURRENT_IR_VERSION)
    except Exception as error:  # noqa: BLE001 - the converter raises whatever its C++ code throws
        return model, f"the version converter failed: {_first_line(error)}"
    return _with_weights(converted, model, big), ""


def _with_weights(converted: ir.Model, model: ir.Model, big: dict[str, ir.Value]) -> ir.Model:
    """Put the weights back, and what else the converter forgets."""
    for value in [value for value in converted.graph.inputs if value.name in big]:
        converted.graph.inputs.remove(value)
        value.const_value = big[value.name].const_value
        converted.graph.register_initializer(value)
    converted.metadata_props.update(model.metadata_props)
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version
    for before, after in zip(model.graph.inputs, converted.graph.inputs, strict=True):
        after.shape = before.shape
    for before, after in zip(model.graph.outputs, converted.graph.outputs, strict=True):
        after.shape = before.shape
    return converted


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
