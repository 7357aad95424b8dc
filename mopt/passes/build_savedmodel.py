"""Convert ONNX to a TensorFlow SavedModel without a change of precision, names or layout."""

from __future__ import annotations

__all__ = ["BuildSavedmodel"]

import collections
import dataclasses
import importlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.model.signature import Feed
from mopt.passes._base import FilePass, PassResult
from mopt.passes._tensorflow_operators import translate

_PROTOBUF_LIMIT = 2**31 - 2**20
"""A protobuf holds no more than 2 GiB, and the weights are in the graph."""
_OLDEST = 13
"""Operator set from which on operators mean what their translation does; Softmax meant another thing before."""
_CLOSE = 1e-2
"""Share of the largest value of an output that it may be off on a real sample: more is another function, not rounding."""
_SIGNATURE = "serving_default"
_Function = Callable[[Sequence[Any]], list[Any]]
"""Of the inputs in the order of the ONNX graph; returns its outputs in their order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildSavedmodel(FilePass):
    """Write ``saved_model.pb``, whose signature ``serving_default`` has the inputs and outputs of the ONNX graph.

    onnx2tf computes in TensorFlow's layout, channels last, which is what its convolutions are fast in; where it gives up, each
    operator is translated by itself. Either way names, which may be any text, order, layout and dynamic sizes are those of the
    graph; weights are constants, which TensorFlow folds and packs when it loads them.

    Attributes:
        calibration: Real samples: what is made has to answer one, alone and as a batch, as ONNX Runtime does. Numbers are made
            up where there are none.
        converter: ``onnx2tf`` or ``operators`` alone; ``any`` takes the first whose result is right.
    """

    makes: ClassVar[str] = "savedmodel"
    libraries: ClassVar[tuple[str, ...]] = ("onnx2tf", "tensorflow-cpu")
    tools: ClassVar[str] = "tensorflow"
    modules: ClassVar[tuple[str, ...]] = ()

    calibration: Samples | None = None
    converter: Literal["any", "onnx2tf", "operators"] = "any"

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Convert, compare with the source and save."""
        import onnx

        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        model = onnx.load(str(source.file))
        if model.ByteSize() > _PROTOBUF_LIMIT:
            raise NotApplicableError(f"its weights are {model.ByteSize() / 1e9:.1f} GB, and a graph of TensorFlow holds 2.1 GB")
        inputs = _inputs(model.graph)
        feed = self.calibration[0] if self.calibration else _made_up(inputs)
        feeds = [feed, *([_doubled(feed)] if all(map(_has_free_first_axis, inputs)) else [])]
        expected = _reference(source.file, feeds)
        converter, function, layouts = _first_right(self.converter, model, feeds, expected)
        wrapped = _wrap(function, inputs, layouts)
        proto = _saved_model(wrapped, [value.name for value in inputs], [value.name for value in model.graph.output])
        (folder / "saved_model.pb").write_bytes(proto.SerializeToString(deterministic=True))
        operators = collections.Counter(node.op for node in proto.meta_graphs[0].graph_def.node)
        detail = {
            "converter": converter,
            "operators": dict(operators.most_common()),
            "largest relative difference": max(layout.apart for layout in layouts),
        }
        return PassResult(True, detail)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the axes of an output have to be put back, and what is left of a difference then, as a share of the largest value."""

    axes: tuple[int, ...]
    apart: float


def _first_right(
    wanted: str, model: Any, feeds: Sequence[Feed], expected: Sequence[Feed]
) -> tuple[str, _Function, list[_Layout]]:
    """Return the first converter whose function answers as ONNX Runtime does, the function, and the layout of its outputs.

    Raises:
        NotApplicableError: When there is none, with the reason of each.
    """
    converters: dict[str, Callable[[Any, Feed], _Function]] = {"onnx2tf": _by_onnx2tf, "operators": _by_operators}
    reasons = []
    for name, convert in converters.items():
        if wanted not in ("any", name):
            continue
        try:
            function = convert(model, feeds[0])
            return name, function, _layouts(model.graph, function, feeds, expected)
        except NotApplicableError as error:
            reasons.append(error.message)
    raise NotApplicableError("; ".join(reasons))


# --- ONNX --------------------------------------------------------------------------------------------------------------------


def _inputs(graph: Any) -> list[Any]:
    constants = {value.name for value in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _has_free_first_axis(value: Any) -> bool:
    shape = value.type.tensor_type.shape
    return bool(shape.dim) and not _is_fixed(shape.dim[0])


def _is_fixed(size: Any) -> bool:
    return bool(size.HasField("dim_value") and size.dim_value >= 0)


def _shape(value: Any) -> list[int | None]:
    return [int(size.dim_value) if _is_fixed(size) else None for size in value.type.tensor_type.shape.dim]


def _doubled(feed: Feed) -> Feed:
    import numpy as np

    return {name: np.concatenate([value, value]) for name, value in feed.items()}


def _made_up(inputs: Sequence[Any]) -> Feed:
    """One input of each name: small numbers, ones where they may be indices or sizes; a size that is free is 1."""
    import numpy as np
    from onnx.helper import tensor_dtype_to_np_dtype

    rng = np.random.default_rng(0)
    feed = {}
    for value in inputs:
        shape = [1 if size is None else size for size in _shape(value)]
        dtype = tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feed[value.name] = (rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)).astype(dtype)
    return feed


def _reference(path: Path, feeds: Sequence[Feed]) -> list[Feed]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    except Exception as error:  # it has no class of its own for what a model may not have
        raise NotApplicableError(f"ONNX Runtime beside TensorFlow does not run it: {_essence(error)}") from error


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those in its operators."""
    yield graph
    for attribute in itertools.chain.from_iterable(node.attribute for node in graph.node):
        if attribute.HasField("g"):
            yield from _graphs(attribute.g)


def _with_plain_names(model: Any) -> Any:
    """Return a copy whose values have names that TensorFlow takes for scopes: inputs and outputs by their number."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {value.name: f"input_{index}" for index, value in enumerate(_inputs(copy.graph))}
    for index, value in enumerate(copy.graph.output):
        names.setdefault(value.name, f"output_{index}")
    for graph in _graphs(copy.graph):
        del graph.value_info[:]
        made = itertools.chain.from_iterable(node.output for node in graph.node)
        for name in itertools.chain(made, (value.name for value in (*graph.initializer, *graph.input, *graph.output))):
            names.setdefault(name, f"value_{len(names)}" if name else "")
    for graph in _graphs(copy.graph):
        for value in (*graph.initializer, *graph.input, *graph.output):
            value.name = names[value.name]
        for index, node in enumerate(graph.node):
            node.name = f"node_{index}"
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names[name] for name in node.output]
    return copy


# --- converters --------------------------------------------------------------------------------------------------------------


def _by_onnx2tf(model: Any, feed: Feed) -> _Function:
    """Return the Keras model that onnx2tf makes, as a function; where sizes are free, ``feed`` says which it is tried with.

    Raises:
        NotApplicableError: When onnx2tf cannot convert the model; it ends its process, or raises anything.
    """
    import onnx

    onnx2tf = importlib.import_module("onnx2tf.onnx2tf")
    vars(onnx2tf)["download_test_image_data"] = _made_up_images
    names = [f"input_{index}" for index in range(len(feed))]
    values = [feed[value.name] for value in _inputs(model.graph)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"  # onnx2tf writes its own names of nodes into the file that it reads
        onnx.save(_with_plain_names(model), str(path))
        try:
            converted = onnx2tf.convert(
                input_onnx_file_path=str(path),
                output_folder_path=scratch,
                not_use_onnxsim=True,  # the model is simplified already
                disable_model_save=True,
                keep_shape_absolutely_input_names=names,
                shape_hints=[f"{name}:{','.join(map(str, value.shape))}" for name, value in zip(names, values, strict=True)],
                non_verbose=True,
                verbosity="error",
            )
        except (Exception, SystemExit) as error:  # whatever it does not know is no fault of the model
            raise NotApplicableError(f"onnx2tf cannot convert this model: {_essence(error)}") from error
    order = [int(tensor.name.partition(":")[0].rpartition("_")[2]) for tensor in converted.inputs]

    def function(given: Sequence[Any]) -> list[Any]:
        ordered = [given[position] for position in order]
        outputs = converted(ordered if len(ordered) > 1 else ordered[0], training=False)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]

    return function


def _made_up_images() -> Any:
    """In place of the pictures that onnx2tf would download to try a model with; of their shape and range."""
    import numpy as np

    return np.random.default_rng(0).random((20, 128, 128, 3), np.float32)


def _by_operators(model: Any, feed: Feed) -> _Function:
    """Return a function that builds each operator by itself.

    Raises:
        NotApplicableError: When the operator set is too old; the function raises it for an operator that is not known.
    """
    import onnx

    if any(entry.version < _OLDEST for entry in model.opset_import if entry.domain in ("", "ai.onnx")):
        raise NotApplicableError(f"mopt translates operator sets from {_OLDEST} on")
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: _shape(value) for value in inferred.value_info if value.type.tensor_type.HasField("shape")}
    names = [value.name for value in _inputs(model.graph)]
    return lambda given: translate(model.graph, dict(zip(names, given, strict=True)), shapes)


def _essence(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it gave up without a reason that can be passed on; it does not know an operator or an attribute"
    frame, place = error.__traceback__, ""
    while frame is not None:
        name = Path(frame.tb_frame.f_code.co_filename)
        place = f" in {name.stem}" if name.parent.name == "ops" else place
        frame = frame.tb_next
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())[:160]}"


# --- is it the same function? ------------------------------------------------------------------------------------------------


def _layouts(graph: Any, function: _Function, feeds: Sequence[Feed], expected: Sequence[Feed]) -> list[_Layout]:
    answers = [_call(function, [feed[value.name] for value in _inputs(graph)]) for feed in feeds]
    return [
        _layout(value.name, [answer[index] for answer in answers], [each[value.name] for each in expected])
        for index, value in enumerate(graph.output)
    ]


def _call(function: _Function, values: Sequence[Any]) -> list[Any]:
    import numpy as np
    import tensorflow

    try:
        outputs = function([tensorflow.constant(value) for value in values])
    except NotApplicableError:
        raise
    except Exception as error:  # what does not run here does not run anywhere
        raise NotApplicableError(f"what is made of it fails on a real sample: {_essence(error)}") from error
    return [np.asarray(value) for value in outputs]


def _layout(name: str, answers: Sequence[Any], expected: Sequence[Any]) -> _Layout:
    """Return how an output's axes have to be put back: as they are, or from channels last.

    Raises:
        NotApplicableError: When neither is what ONNX Runtime answers.
    """
    rank = expected[0].ndim
    choices = [tuple(range(rank)), *([(0, rank - 1, *range(1, rank - 1))] if rank > 2 else [])]
    layouts = [_Layout(axes, max(map(_apart, (axes,) * len(answers), answers, expected))) for axes in choices]
    best = min(layouts, key=lambda layout: layout.apart)
    if not best.apart <= _CLOSE:
        shapes = f"{list(answers[0].shape)} where {list(expected[0].shape)} is due" if best.apart == float("inf") else ""
        detail = shapes or f"off by {best.apart:.2g} of its largest value on a sample"
        raise NotApplicableError(f"another function is made of it: {name} is {detail}")
    return best


def _apart(axes: tuple[int, ...], answer: Any, expected: Any) -> float:
    import numpy as np

    if answer.ndim != len(axes) or answer.transpose(axes).shape != expected.shape:
        return float("inf")
    if not answer.size:
        return 0.0
    difference = np.abs(answer.transpose(axes).astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference / max(np.abs(expected.astype(np.float64)).max(), 1e-6))


# --- the SavedModel ----------------------------------------------------------------------------------------------------------


def _wrap(function: _Function, inputs: Sequence[Any], layouts: Sequence[_Layout]) -> Any:
    """Return a graph of the ONNX inputs, in their order and layout, with the weights as constants."""
    import tensorflow
    from onnx.helper import tensor_dtype_to_np_dtype
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specs = [
        tensorflow.TensorSpec(_shape(value), tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type), name=f"input_{index}")
        for index, value in enumerate(inputs)
    ]

    @tensorflow.function(input_signature=specs, autograph=False)  # type: ignore[untyped-decorator]
    def wrapped(*values: Any) -> list[Any]:
        return [
            output if layout.axes == tuple(range(len(layout.axes))) else tensorflow.transpose(output, layout.axes)
            for output, layout in zip(function(values), layouts, strict=True)
        ]

    return convert_variables_to_constants_v2(wrapped.get_concrete_function())


def _saved_model(function: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Return the protobuf of a SavedModel; what TensorFlow's own writer makes is not the same in every process.

    Raises:
        NotApplicableError: When it is larger than a protobuf may be.
    """
    import tensorflow
    from tensorflow.core.protobuf import saved_model_pb2

    graph = function.graph.as_graph_def()
    proto = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta = proto.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.meta_info_def.tensorflow_version = tensorflow.__version__
    if graph.ByteSize() > _PROTOBUF_LIMIT:
        raise NotApplicableError(f"its weights are {graph.ByteSize() / 1e9:.1f} GB, and a graph of TensorFlow holds 2.1 GB")
    meta.graph_def.CopyFrom(graph)
    signature = meta.signature_def[_SIGNATURE]
    signature.method_name = "tensorflow/serving/predict"
    _describe(signature.inputs, inputs, function.inputs)
    _describe(signature.outputs, outputs, function.outputs)
    return proto


def _describe(entries: Any, names: Sequence[str], tensors: Sequence[Any]) -> None:
    described: Mapping[str, Any] = dict(zip(names, tensors, strict=True))
    for name, tensor in described.items():
        entries[name].name = tensor.name
        entries[name].dtype = tensor.dtype.as_datatype_enum
        entries[name].tensor_shape.CopyFrom(tensor.shape.as_proto())
