"""Convert ONNX to a TensorFlow SavedModel without a change of precision, names or layout."""

from __future__ import annotations

__all__ = ["BuildSavedmodel"]

import collections
import dataclasses
import importlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.model.signature import Feed
from mopt.passes._base import FilePass, PassResult
from mopt.system.files import link_or_copy

_PROTOBUF_LIMIT = 2**31 - 2**20
"""A protobuf holds no more than 2 GiB, and the weights are in the graph."""
_CLOSE = 1e-2
"""Share of the largest value of an output that it may be off on a real sample: more is another function, not rounding."""
_SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildSavedmodel(FilePass):
    """Write ``saved_model.pb``, whose signature ``serving_default`` has the inputs and outputs of the ONNX graph.

    onnx2tf computes in TensorFlow's layout, channels last. What it makes is wrapped so that inputs and outputs keep their
    names, which may be any text, their order, their layout and their dynamic sizes; weights are constants of the graph, which
    TensorFlow folds and packs when it loads it.

    Attributes:
        calibration: Real samples: what is made has to answer one, alone and as a batch, as ONNX Runtime does. Numbers are made
            up where there are none.
    """

    makes: ClassVar[str] = "savedmodel"
    libraries: ClassVar[tuple[str, ...]] = ("onnx2tf", "tensorflow-cpu")
    tools: ClassVar[str] = "tensorflow"
    modules: ClassVar[tuple[str, ...]] = ()

    calibration: Samples | None = None

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Convert, compare with the source and save."""
        import onnx

        graph = onnx.load(str(source.file), load_external_data=False).graph
        constants = {value.name for value in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        feed = self.calibration[0] if self.calibration else _made_up(inputs)
        feeds = [feed, *([_doubled(feed)] if all(map(_has_free_first_axis, inputs)) else [])]
        expected = _reference(source.file, feeds)
        converted = _convert(source.file, [value.name for value in inputs])
        order = _input_order(converted, inputs)
        answers = [_call(converted, [each[name] for name in order]) for each in feeds]
        layouts = [
            _layout(value.name, [answer[index] for answer in answers], [each[value.name] for each in expected])
            for index, value in enumerate(graph.output)
        ]
        wrapped = _wrap(converted, inputs, order, layouts)
        proto = _saved_model(wrapped, [value.name for value in inputs], [value.name for value in graph.output])
        (folder / "saved_model.pb").write_bytes(proto.SerializeToString(deterministic=True))
        operators = collections.Counter(node.op for node in proto.meta_graphs[0].graph_def.node)
        largest = max(layout.apart for layout in layouts)
        return PassResult(True, {"operators": dict(operators.most_common()), "largest relative difference": float(largest)})


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the axes of an output have to be put back, and what is left of a difference then, as a share of the largest value."""

    axes: tuple[int, ...]
    apart: float


# --- ONNX ------------------------------------------------------------------------------------------------------------------


def _has_free_first_axis(value: Any) -> bool:
    shape = value.type.tensor_type.shape
    return bool(shape.dim) and not shape.dim[0].HasField("dim_value")


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
        tensor = value.type.tensor_type
        shape = [size.dim_value if size.HasField("dim_value") else 1 for size in tensor.shape.dim]
        dtype = tensor_dtype_to_np_dtype(tensor.elem_type)
        feed[value.name] = (rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)).astype(dtype)
    return feed


def _reference(path: Path, feeds: Sequence[Feed]) -> list[Feed]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


# --- TensorFlow ------------------------------------------------------------------------------------------------------------


def _convert(path: Path, names: Sequence[str]) -> Any:
    """Return a Keras model whose inputs keep their layout.

    Raises:
        NotApplicableError: When onnx2tf cannot convert the model; it ends its process, or raises anything.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    onnx2tf = importlib.import_module("onnx2tf.onnx2tf")
    vars(onnx2tf)["download_test_image_data"] = _made_up_images
    with tempfile.TemporaryDirectory() as scratch:
        copy = _copy(path, Path(scratch) / "onnx")
        try:
            return onnx2tf.convert(
                input_onnx_file_path=str(copy),
                output_folder_path=scratch,
                not_use_onnxsim=True,  # the model is simplified already
                disable_model_save=True,
                keep_shape_absolutely_input_names=list(names),
                non_verbose=True,
                verbosity="error",
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 whatever it does not know is no fault of the model
            raise NotApplicableError(f"onnx2tf cannot convert this model: {_essence(error)}") from error


def _copy(path: Path, folder: Path) -> Path:
    """Return a copy of the graph beside its weights: onnx2tf writes its own names of nodes into the file that it reads."""
    folder.mkdir()
    for file in path.parent.iterdir():
        if file != path and file.is_file():
            link_or_copy(file, folder / file.name)
    return shutil.copyfile(path, folder / path.name)


def _made_up_images() -> Any:
    """In place of the pictures that onnx2tf would download to try a model with; of their shape and range."""
    import numpy as np

    return np.random.default_rng(0).random((20, 128, 128, 3), np.float32)


def _essence(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it gave up without a reason that can be passed on; it does not know an operator or an attribute"
    frame, place = error.__traceback__, ""
    while frame is not None:
        name = Path(frame.tb_frame.f_code.co_filename)
        place = f" in {name.stem}" if name.parent.name == "ops" else place
        frame = frame.tb_next
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())[:200]}"


def _input_order(converted: Any, inputs: Sequence[Any]) -> list[str]:
    """The names of the ONNX inputs in the order of the Keras model's, which has sanitized and dropped some of them."""
    names = [value.name for value in inputs]
    made = [tensor.name for tensor in converted.inputs]
    by_name = {_sanitized(name): name for name in names}
    order = [by_name.get(_sanitized(name)) for name in made]
    if len(set(order)) == len(made) and None not in order:
        return [name for name in order if name is not None]
    if len(made) == len(names):
        return names
    raise NotApplicableError(f"onnx2tf makes {len(made)} inputs of {len(names)}")


def _sanitized(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name).strip("_").lower()


def _call(converted: Any, values: Sequence[Any]) -> list[Any]:
    import numpy as np

    try:
        outputs = converted(list(values) if len(values) > 1 else values[0], training=False)
    except Exception as error:  # noqa: BLE001 what does not run here does not run anywhere
        raise NotApplicableError(f"what onnx2tf makes of it fails on a real sample: {_essence(error)}") from error
    return [np.asarray(value) for value in (outputs if isinstance(outputs, list | tuple) else [outputs])]


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
        raise NotApplicableError(f"onnx2tf makes another function of it: {name} is {detail}")
    return best


def _apart(axes: tuple[int, ...], answer: Any, expected: Any) -> float:
    import numpy as np

    if answer.ndim != len(axes) or answer.transpose(axes).shape != expected.shape:
        return float("inf")
    if not answer.size:
        return 0.0
    difference = np.abs(answer.transpose(axes).astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference / max(np.abs(expected.astype(np.float64)).max(), 1e-6))


def _wrap(converted: Any, inputs: Sequence[Any], order: Sequence[str], layouts: Sequence[_Layout]) -> Any:
    """Return a function of the ONNX inputs, in their order and layout, with the weights as constants."""
    import tensorflow
    from onnx.helper import tensor_dtype_to_np_dtype
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    tensors = [value.type.tensor_type for value in inputs]
    specs = [
        tensorflow.TensorSpec(
            [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim],
            tensor_dtype_to_np_dtype(tensor.elem_type),
            name=f"input_{index}",
        )
        for index, tensor in enumerate(tensors)
    ]
    positions = [[value.name for value in inputs].index(name) for name in order]

    @tensorflow.function(input_signature=specs, autograph=False)  # type: ignore[untyped-decorator]
    def function(*values: Any) -> list[Any]:
        given = [values[position] for position in positions]
        outputs = converted(given if len(given) > 1 else given[0], training=False)
        listed = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [
            output if layout.axes == tuple(range(len(layout.axes))) else tensorflow.transpose(output, layout.axes)
            for output, layout in zip(listed, layouts, strict=True)
        ]

    return convert_variables_to_constants_v2(function.get_concrete_function())


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
