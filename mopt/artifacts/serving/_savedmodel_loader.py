"""What TensorFlow itself makes of the files for TensorFlow Serving.

Runs in TensorFlow's own environment, in a child process.
"""

from __future__ import annotations

__all__ = ["parse_configuration", "run_batched", "run_in_cpp", "run_warmup"]

import collections
import concurrent.futures
import ctypes
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.model.signature import Feed

_SIGNATURE = "serving_default"
_TAG = b"serve"
_WAIT_SECONDS = 60.0
_BATCHING_FIELDS = {
    "max_batch_size": (1, "Int64Value"), "batch_timeout_micros": (2, "Int64Value"), "max_enqueued_batches": (3, "Int64Value"),
    "num_batch_threads": (4, "Int64Value"), "thread_pool_name": (5, "StringValue"),
    "enable_large_batch_splitting": (8, "BoolValue"), "max_execution_batch_size": (9, "Int64Value"),
}  # fmt: skip
"""Of the message BatchingParameters in ``servables/tensorflow/session_bundle_config.proto``, which the package of the server's
protos leaves out, as it does ``config/monitoring_config.proto``, with the wrapper types that they have."""
_POINTERS = (
    "TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_NewBuffer", "TF_LoadSessionFromSavedModel",
    "TF_GraphOperationByName", "TF_AllocateTensor", "TF_TensorData",
)  # fmt: skip
"""Functions of TensorFlow's C API that return an address."""


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class _Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("release", ctypes.c_void_p)]


# --- the loader in C++ -------------------------------------------------------------------------------------------------------


def run_in_cpp(folder: Path, feeds: Sequence[Feed]) -> dict[str, Any]:
    """Load a SavedModel with ``TF_LoadSessionFromSavedModel`` of libtensorflow_cc, and run it.

    Args:
        folder: With ``saved_model.pb``.
        feeds: Inputs by their names in the signature.

    Returns:
        ``version`` of the library, and ``answers`` for the feeds: outputs by name.
    """
    loaded = _Loaded(folder)
    return {"version": loaded.version, "answers": [loaded.run(feed) for feed in feeds]}


class _Loaded:
    """A session that the C API has opened; it is never closed, for the process ends with it."""

    def __init__(self, folder: Path) -> None:
        protos = importlib.import_module("tensorflow.core.protobuf.meta_graph_pb2")
        self._library = _library()
        self._status = ctypes.c_void_p(self._library.TF_NewStatus())
        self._graph = ctypes.c_void_p(self._library.TF_NewGraph())
        described = ctypes.c_void_p(self._library.TF_NewBuffer())
        tags = (ctypes.c_char_p * 1)(_TAG)
        options = ctypes.c_void_p(self._library.TF_NewSessionOptions())
        session = self._library.TF_LoadSessionFromSavedModel(
            options, None, str(folder).encode(), tags, 1, self._graph, described, self._status
        )
        self._check()
        self._session = ctypes.c_void_p(session)
        buffer = ctypes.cast(described, ctypes.POINTER(_Buffer)).contents
        meta = protos.MetaGraphDef.FromString(ctypes.string_at(buffer.data, buffer.length))
        self._signature = meta.signature_def[_SIGNATURE]
        self.version = self._library.TF_Version().decode()

    def run(self, feed: Feed) -> Feed:
        inputs, outputs = self._signature.inputs, self._signature.outputs
        names = sorted(outputs)
        given = (_Output * len(inputs))(*(self._output(inputs[name].name) for name in sorted(inputs)))
        values = (ctypes.c_void_p * len(inputs))(*(self._tensor(feed[name], inputs[name].dtype) for name in sorted(inputs)))
        fetched = (_Output * len(names))(*(self._output(outputs[name].name) for name in names))
        answers = (ctypes.c_void_p * len(names))()
        self._library.TF_SessionRun(
            self._session, None, given, values, len(inputs), fetched, answers, len(names), None, 0, None, self._status
        )
        self._check()
        return {name: self._array(ctypes.c_void_p(answer)) for name, answer in zip(names, answers, strict=True)}

    def _output(self, tensor: str) -> _Output:
        operation, _, index = tensor.partition(":")
        return _Output(self._library.TF_GraphOperationByName(self._graph, operation.encode()), int(index))

    def _tensor(self, value: Any, dtype: int) -> Any:
        import numpy as np

        array = np.ascontiguousarray(value)
        sizes = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = self._library.TF_AllocateTensor(dtype, sizes, array.ndim, ctypes.c_size_t(array.nbytes))
        ctypes.memmove(self._library.TF_TensorData(ctypes.c_void_p(tensor)), array.ctypes.data, array.nbytes)
        return tensor

    def _array(self, tensor: Any) -> Any:
        import numpy as np

        dtypes = importlib.import_module("tensorflow").dtypes
        shape = [self._library.TF_Dim(tensor, axis) for axis in range(self._library.TF_NumDims(tensor))]
        size = self._library.TF_TensorByteSize(tensor)
        content = ctypes.string_at(self._library.TF_TensorData(tensor), size) if size else b""
        dtype = dtypes.as_dtype(self._library.TF_TensorType(tensor)).as_numpy_dtype
        return np.frombuffer(content, dtype).reshape(shape).copy()

    def _check(self) -> None:
        if self._library.TF_GetCode(self._status):
            raise RuntimeError(self._library.TF_Message(self._status).decode(errors="replace"))


def _library() -> Any:
    package = Path(str(importlib.import_module("tensorflow").__file__)).parent
    ctypes.CDLL(str(package / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(package / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    for name in _POINTERS:
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = library.TF_Version.restype = ctypes.c_char_p
    library.TF_Dim.restype, library.TF_TensorByteSize.restype = ctypes.c_int64, ctypes.c_size_t
    return library


# --- what else the server reads -----------------------------------------------------------------------------------------------


def parse_configuration(files: Mapping[str, str]) -> dict[str, Any]:
    """Parse what the server's flags name with its own messages; a field that it does not know is an error.

    Args:
        files: Text of ``models.config``, of ``monitoring.config`` and, where requests are batched, of
            ``batching_parameters.txt``.

    Returns:
        ``models``: names; ``metrics``: where they are exported; ``batching``: the fields that are set, where there are any.
    """
    text_format = importlib.import_module("google.protobuf.text_format")
    messages = importlib.import_module("tensorflow_serving.config.model_server_config_pb2")
    result: dict[str, Any] = {}
    for name, text in files.items():
        if name == "models.config":
            config = text_format.Parse(text, messages.ModelServerConfig())
            result["models"] = [model.name for model in config.model_config_list.config]
        elif name == "monitoring.config":
            prometheus = text_format.Parse(text, _message("MonitoringConfig")()).prometheus_config
            result["metrics"] = prometheus.path if prometheus.enable else ""
        else:
            parameters = text_format.Parse(text, _message("BatchingParameters")())
            result["batching"] = {
                field.name: value.value for field, value in parameters.ListFields() if field.name in _BATCHING_FIELDS
            }
    return result


def _message(wanted: str) -> Any:
    """The class of a message that the package of the server's protos leaves out, made of its published fields."""
    descriptors = importlib.import_module("google.protobuf.descriptor_pb2")
    importlib.import_module("google.protobuf.wrappers_pb2")
    pool = importlib.import_module("google.protobuf.descriptor_pool").Default()
    file = descriptors.FileDescriptorProto(
        name="left_out.proto", package="mopt", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    message, field = file.message_type.add(name="BatchingParameters"), descriptors.FieldDescriptorProto
    for name, (number, kind) in _BATCHING_FIELDS.items():
        message.field.add(
            name=name, number=number, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE, type_name=f".google.protobuf.{kind}"
        )
    message.field.add(name="allowed_batch_sizes", number=6, label=field.LABEL_REPEATED, type=field.TYPE_INT64)
    message.field.add(name="pad_variable_length_inputs", number=7, label=field.LABEL_OPTIONAL, type=field.TYPE_BOOL)
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_BOOL)
    prometheus.field.add(name="path", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    file.message_type.add(name="MonitoringConfig").field.add(
        name="prometheus_config", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE,
        type_name=".mopt.PrometheusConfig",
    )  # fmt: skip
    pool.AddSerializedFile(file.SerializeToString())
    return importlib.import_module("google.protobuf.message_factory").GetMessageClass(
        pool.FindMessageTypeByName(f"mopt.{wanted}")
    )


def run_warmup(folder: Path) -> dict[str, Any]:
    """Read the warm-up requests as the server does, checksums included, and run each of them.

    Returns:
        ``batches``: sizes of the first axes; ``model``: the name that they are for.
    """
    tensorflow = importlib.import_module("tensorflow")
    logs = importlib.import_module("tensorflow_serving.apis.prediction_log_pb2")
    function = tensorflow.saved_model.load(str(folder)).signatures[_SIGNATURE]
    path = str(folder / "assets.extra" / "tf_serving_warmup_requests")
    batches, models = [], set()
    for record in tensorflow.data.TFRecordDataset(path).as_numpy_iterator():
        request = logs.PredictionLog.FromString(record).predict_log.request
        values = {name: tensorflow.constant(tensorflow.make_ndarray(proto)) for name, proto in request.inputs.items()}
        _apply(function, values)
        first = next(iter(values.values()))
        batches.append(int(first.shape[0]) if first.shape.rank else 1)
        models.add(request.model_spec.name)
    return {"batches": batches, "models": sorted(models)}


def run_batched(folder: Path, feeds: Sequence[Feed], parameters: Mapping[str, Any], clients: int) -> dict[str, Any]:
    """Run requests through the scheduler that the server batches with, SharedBatchScheduler, from several threads.

    Args:
        folder: With ``saved_model.pb``.
        feeds: One for each request.
        parameters: Those of the batching file.
        clients: Requests under way.

    Returns:
        ``sizes``: how many batches there were of each size; ``answers`` in the order of the requests.
    """
    tensorflow = importlib.import_module("tensorflow")
    function = tensorflow.saved_model.load(str(folder)).signatures[_SIGNATURE]
    names = list(feeds[0])
    outputs = sorted(function.structured_outputs)
    sizes: list[int] = []

    def note(value: Any) -> Any:
        sizes.append(len(value))
        return value

    @tensorflow.nondifferentiable_batch_function(**parameters)  # type: ignore[untyped-decorator]
    def batched(*values: Any) -> list[Any]:
        first = tensorflow.numpy_function(note, [values[0]], values[0].dtype)
        first.set_shape(values[0].shape)
        answers = _apply(function, dict(zip(names, (first, *values[1:]), strict=True)))
        return [answers[name] for name in outputs]

    specs = [tensorflow.TensorSpec([None, *feeds[0][name].shape[1:]], feeds[0][name].dtype) for name in names]
    serve = tensorflow.function(batched, input_signature=specs, autograph=False)

    def ask(feed: Feed) -> Feed:
        return dict(zip(outputs, (value.numpy() for value in serve(*(feed[name] for name in names))), strict=True))

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, feeds, timeout=_WAIT_SECONDS))
    return {"sizes": {str(size): count for size, count in sorted(collections.Counter(sizes).items())}, "answers": answers}


def _apply(function: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Call a signature, whose arguments may have any text for a name."""
    answers: Mapping[str, Any] = function(**values)
    return answers
