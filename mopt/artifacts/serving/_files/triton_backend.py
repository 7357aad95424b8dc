"""Triton's onnxruntime and openvino backends as python-based backends, where those in C++ cannot be installed.

Triton's core (configuration, dynamic batcher, warm-up, statistics, protocols) is the real one. What is done here with the
model's configuration is what ``src/onnxruntime.cc`` and ``src/openvino.cc`` of the backends do: they look up the parameters
below and ignore every other, and they load nothing whose tensors differ from the configuration. mopt copies this file as
``model.py`` into the folder of each backend.
"""

from __future__ import annotations

__all__ = ["OnnxRuntimeModel", "OpenVINOModel", "TritonPythonModel", "check_tensors"]

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]
"""Arrays by tensor name."""

_ONNX_TYPES = {
    "float16": "TYPE_FP16", "float": "TYPE_FP32", "double": "TYPE_FP64", "bool": "TYPE_BOOL", "string": "TYPE_STRING",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_OPENVINO_TYPES = {
    "f16": "TYPE_FP16", "f32": "TYPE_FP32", "boolean": "TYPE_BOOL",
    **{f"i{bits}": f"TYPE_INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"TYPE_UINT{bits}" for bits in (8, 16, 32, 64)},
}  # fmt: skip
_PROPERTIES = {"INFERENCE_NUM_THREADS": int, "COMPILATION_NUM_THREADS": int, "NUM_STREAMS": str, "PERFORMANCE_HINT": str}
_ARITHMETIC = {"f32": "fp32", "f16": "fp16"}


class TritonPythonModel:
    """One instance of a model, as the server opens and asks it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the model; raise where the backend in C++ would not load it."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._model = (OpenVINOModel if config["backend"] == "openvino" else OnnxRuntimeModel)(folder, config)
        self._batched: bool = config["max_batch_size"] > 0
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        # Each warm-up is one execution before all others, and no batch that anybody asked for.
        self._warm_ups = sum(max(1, warm_up.get("count", 0)) for warm_up in config.get("model_warmup", ()))
        self._report = os.environ.get("MOPT_SERVED_REPORT", "").replace("{model}", args["model_name"])
        if self._report:
            scratch = Path(f"{self._report}.{os.getpid()}")
            scratch.write_text(json.dumps(self._model.effective()), encoding="utf-8")
            scratch.replace(self._report)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, all together where the model has a batch axis."""
        import triton_python_backend_utils as triton

        feeds = [
            {name: _decoded(triton.get_input_tensor_by_name(request, name).as_numpy()) for name in self._inputs}
            for request in requests
        ]
        answers = [
            answer for group in ([feeds] if self._batched else [[feed] for feed in feeds]) for answer in self._run(group)
        ]
        return [
            triton.InferenceResponse([triton.Tensor(name, _encoded(answer[name])) for name in self._outputs])
            for answer in answers
        ]

    def _run(self, feeds: Sequence[Feed]) -> list[Feed]:
        sizes = [len(feed[self._inputs[0]]) if self._batched else 1 for feed in feeds]
        self._count(sum(sizes))
        if not self._batched:
            return [self._model.infer(feeds[0])]
        outputs = self._model.infer({name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs})
        cuts = np.cumsum(sizes)[:-1]
        parts = {name: np.split(value, cuts) for name, value in outputs.items()}
        return [{name: pieces[index] for name, pieces in parts.items()} for index in range(len(feeds))]

    def _count(self, batch: int) -> None:
        if self._warm_ups:
            self._warm_ups -= 1
        elif self._report:
            with open(f"{self._report}.batches", "a", encoding="utf-8") as file:
                file.write(f"{batch}\n")


class OnnxRuntimeModel:
    """ONNX Runtime on the CPU: a session for each instance."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import onnxruntime

        parameters = _parameters(config)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
        path = folder / (config.get("default_model_filename") or "model.onnx")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._ranks = {tensor.name: len(tensor.shape) for tensor in self._session.get_inputs()}
        for kind, tensors in (("input", self._session.get_inputs()), ("output", self._session.get_outputs())):
            shapes = {tensor.name: _sizes(tensor.shape) for tensor in tensors}
            types = {tensor.name: _ONNX_TYPES.get(tensor.type.removeprefix("tensor(")[:-1], "") for tensor in tensors}
            check_tensors(config, kind, shapes, types)

    def infer(self, feed: Feed) -> Feed:
        """Run one batch."""
        feed = {name: value.reshape(()) if self._ranks[name] == 0 else value for name, value in feed.items()}
        return dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))

    def effective(self) -> dict[str, Any]:
        """Return what the runtime says that it computes with."""
        threads = int(self._session.get_session_options().intra_op_num_threads)
        versions = {"onnxruntime": metadata.version("onnxruntime")}
        return {"threads": threads, "streams": 1, "providers": self._session.get_providers(), "versions": versions}


class OpenVINOModel:
    """OpenVINO's CPU plugin: the batch is fixed at the largest, and smaller ones are padded with zeros where that is allowed.

    In C++ all instances share one compiled model and run on a stream of it each; here each has a process, and one stream of its
    own compiled model at work, which takes as many threads.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import openvino

        parameters, self._batch = _parameters(config), config["max_batch_size"]
        core = openvino.Core()
        for key, convert in _PROPERTIES.items():
            if key in parameters:
                core.set_property("CPU", {key: convert(parameters[key])})
        if "HINT_BF16" in parameters:
            if parameters["HINT_BF16"].lower() != "yes":
                raise ValueError("expected the parameter 'HINT_BF16' to be YES")
            core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        self._pads = parameters.get("ENABLE_BATCH_PADDING", "").lower() == "yes"
        model = core.read_model(str(folder / (config.get("default_model_filename") or "model.xml")))
        for kind, ports in (("input", model.inputs), ("output", model.outputs)):
            shapes = {
                port.get_any_name(): [-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
                for port in ports
            }
            types = {port.get_any_name(): _OPENVINO_TYPES.get(port.get_element_type().get_type_name(), "") for port in ports}
            check_tensors(config, kind, shapes, types)
        if self._batch:
            for parameter in model.get_parameters():
                parameter.set_layout(openvino.Layout("N..."))
            openvino.set_batch(model, self._batch)
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self.compiled = core.compile_model(model, "CPU")
        self._request = self.compiled.create_infer_request()

    def infer(self, feed: Feed) -> Feed:
        """Run one batch; ValueError where it is smaller than the largest and may not be padded."""
        size = len(next(iter(feed.values()))) if self._batch else 0
        if missing := self._batch - size if self._batch else 0:
            if not self._pads:
                raise ValueError(f"expected requests with batch size '{self._batch}', got '{size}'")
            feed = {name: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1)) for name, value in feed.items()}
        results = self._request.infer(feed)
        return {name: np.array(results[name])[: size or None] for name in self._outputs}

    def effective(self) -> dict[str, Any]:
        """Return what the runtime says that it computes with."""
        hint = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {
            "precision": _ARITHMETIC.get(hint, hint),
            "threads": int(self.compiled.get_property("INFERENCE_NUM_THREADS")),
            "streams": int(self.compiled.get_property("NUM_STREAMS")),
            "versions": {"openvino": metadata.version("openvino")},
        }


def check_tensors(config: Mapping[str, Any], kind: str, shapes: Mapping[str, Sequence[int]], types: Mapping[str, str]) -> None:
    """Raise ValueError unless names, types and shapes of a configuration fit those of the model.

    Args:
        config: Of the model, as Triton passes it on.
        kind: ``input``, whose sizes may be narrower than the model's, or ``output``, whose sizes are the same.
        shapes: The model's, by name, with -1 for what varies.
        types: The model's, by name, in Triton's words; empty for those that it has none for.
    """
    wanted = config[kind]
    if kind == "input" and len(wanted) != len(shapes):
        raise ValueError(f"configuration expects {len(wanted)} inputs, model provides {len(shapes)}")
    for tensor in wanted:
        name = tensor["name"]
        if name not in shapes:
            raise ValueError(f"unexpected inference {kind} '{name}', allowed {kind}s are: {', '.join(sorted(shapes))}")
        if types[name] != tensor["data_type"]:
            raise ValueError(
                f"configuration expects datatype {tensor['data_type']} for {kind} '{name}', model provides {types[name]}"
            )
        dims = [int(size) for size in tensor.get("reshape", {}).get("shape", tensor["dims"])]
        if not shapes[name] and all(size == 1 for size in dims):
            continue  # a scalar is [1] for the client
        full = [*([-1] if config["max_batch_size"] > 0 else []), *dims]
        fits = len(full) == len(shapes[name]) and all(
            given == size or (given == -1 and kind == "input") for given, size in zip(shapes[name], full, strict=True)
        )
        if not fits:
            raise ValueError(f"tensor '{name}': the model expects {list(shapes[name])}, the configuration specifies {full}")


def _parameters(config: Mapping[str, Any]) -> dict[str, str]:
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def _sizes(shape: Iterable[Any]) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]


def _decoded(value: Any) -> Any:
    if value.dtype != object:
        return value
    return np.array([item.decode() for item in value.ravel()], dtype=object).reshape(value.shape)


def _encoded(value: Any) -> Any:
    return np.char.encode(value.astype(str)).astype(object) if value.dtype == object else value
