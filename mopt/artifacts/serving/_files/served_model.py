"""The model of an artifact, opened as it was judged: runtime, threads and precision are those of served_model.json.

mopt copies this file beside the service that uses it. It needs NumPy and the runtime, not mopt.
"""

from __future__ import annotations

__all__ = ["DATATYPES", "InvalidRequestError", "ModelInterface", "ServedModel", "unscaled"]

import collections
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = "served_model.json"
DATATYPES = {
    "bool": "BOOL", "str": "BYTES", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
"""What KServe's protocol, version 2, calls NumPy's types."""
_ARITHMETIC = {"f32": "fp32", "f16": "fp16"}
_MOST_SHAPES = 16
"""Compiled models of static shapes that are kept; the oldest goes first."""
_MOST_ANSWERED = 1024
"""Shapes that are remembered to be computed without an error."""

Feed = dict[str, Any]
"""Arrays by tensor name; the batch axis is present."""


class InvalidRequestError(ValueError):
    """The request does not fit the model; the caller can change it, and the server is fine."""


class ModelInterface:
    """What the model takes and gives, and requests of the protocols for it; opens no session and needs no runtime.

    Args:
        folder: Where served_model.json is.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.settings = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        self.name: str = self.settings["name"]
        self.inputs: list[dict[str, Any]] = self.settings["inputs"]
        self.outputs: list[dict[str, Any]] = self.settings["outputs"]
        self.max_batch: int = self.settings["max_batch"]
        self._axes: dict[str, int] = self.settings["batch_axes"]
        # More than one sample that is always taken at once is one instance, as it is one request.
        self._row_axes = self._axes if self.settings["batch_size"] in (None, 1) else {}
        self._may_be_empty = frozenset(self.settings["may_be_empty"])

    @property
    def batches(self) -> bool:
        """Whether requests can be put together."""
        return bool(self._axes) and self.settings["batch_size"] is None

    def check(self, feed: Feed) -> None:
        """Raise InvalidRequestError unless names, types and shapes are those of the model, and the batch is not too large."""
        names = [spec["name"] for spec in self.inputs]
        if set(feed) != set(names):
            raise InvalidRequestError(f"{self.name} takes {', '.join(names)}, and the request has {', '.join(sorted(feed))}")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            value, shape = feed[spec["name"]], spec["shape"]
            if _dtype(value) != spec["dtype"]:
                raise InvalidRequestError(f"{spec['name']} is {_dtype(value)}, and {self.name} takes {spec['dtype']}")
            if len(value.shape) != len(shape) or any(
                isinstance(size, int) and size != given for size, given in zip(shape, value.shape, strict=False)
            ):
                raise InvalidRequestError(f"{spec['name']} has shape {list(value.shape)}, and {self.name} takes {shape}")
            for size, given in zip(shape, value.shape, strict=True):
                if isinstance(size, str) and size != "?" and sizes.setdefault(size, given) != given:
                    raise InvalidRequestError(f"{size} is {sizes[size]} in one input and {given} in {spec['name']}")
        if self.batches and (count := self._count(feed)) > max(1, self.max_batch):
            raise InvalidRequestError(
                f"the request is a batch of {count}, and {self.name} takes {max(1, self.max_batch)} at most"
            )
        for spec in self.inputs:
            name, shape = spec["name"], feed[spec["name"]].shape
            empty = [axis for axis, size in enumerate(shape) if size == 0 and spec["shape"][axis] != 0]
            if any(axis == self._axes.get(name) or name not in self._may_be_empty for axis in empty):
                raise InvalidRequestError(f"{name} is empty: its shape is {list(shape)}")

    def samples(self, feed: Feed) -> int:
        """How many samples a request has; 1 where requests cannot be put together."""
        return self._count(feed) if self.batches else 1

    def _count(self, feed: Feed) -> int:
        name = next(spec["name"] for spec in self.inputs if spec["name"] in self._axes)
        size: int = feed[name].shape[self._axes[name]]
        return size

    # --- KServe's protocol, version 2, as JSON -----------------------------------------------------------------------------

    def metadata(self) -> dict[str, Any]:
        """Return what the protocol says about a model."""
        return {
            "name": self.name,
            "versions": ["1"],
            "platform": self.settings["runtime"],
            "inputs": [_described(spec) for spec in self.inputs],
            "outputs": [_described(spec) for spec in self.outputs],
        }

    def parse(self, request: Any) -> Feed:
        """Return the inputs of a request of the protocol.

        Raises:
            InvalidRequestError: When it is none, or does not fit the model.
        """
        try:
            entries = {entry["name"]: entry for entry in request["inputs"]}
        except (KeyError, TypeError):
            raise InvalidRequestError('a request is {"inputs": [{"name", "datatype", "shape", "data"}]}') from None
        feed = {}
        for spec in self.inputs:
            if spec["name"] not in entries:
                raise InvalidRequestError(f"the input {spec['name']} is missing")
            feed[spec["name"]] = _parsed(entries.pop(spec["name"]), spec)
        if entries:
            raise InvalidRequestError(f"{self.name} has no input {', '.join(map(str, entries))}")
        self.check(feed)
        return feed

    def answer(self, outputs: Feed, identity: Any = None) -> dict[str, Any]:
        """Return outputs as an answer of the protocol."""
        entries = [
            {"name": name, "datatype": DATATYPES[_dtype(value)], "shape": list(value.shape), "data": _listed(value.ravel())}
            for name, value in outputs.items()
        ]
        answer = {"model_name": self.name, "model_version": "1", "outputs": entries}
        return answer if identity is None else {**answer, "id": str(identity)}

    # --- columns: inputs by name, as BentoML and TensorFlow Serving have them -----------------------------------------------

    def parse_columns(self, columns: Any) -> Feed:
        """Return inputs that are lists by name, with the batch axis.

        Raises:
            InvalidRequestError: When they are none, or do not fit the model.
        """
        names = [spec["name"] for spec in self.inputs]
        if not isinstance(columns, dict) or set(columns) != set(names):
            given = ", ".join(map(str, columns)) if isinstance(columns, dict) else type(columns).__name__
            raise InvalidRequestError(f"{self.name} takes {', '.join(names)}, and the request has {given}")
        feed = {spec["name"]: _unflattened(_cast(columns[spec["name"]], spec), spec["shape"]) for spec in self.inputs}
        self.check(feed)
        return feed

    def columns(self, outputs: Feed) -> dict[str, Any]:
        """Return outputs as lists by name."""
        return {name: _listed(value) for name, value in outputs.items()}

    # --- rows, as Vertex AI, TensorFlow Serving and KServe's version 1 have them --------------------------------------------

    def parse_instances(self, instances: Any) -> list[Feed]:
        """Return one request for each instance: its inputs by name without the batch axis, or the only input itself.

        Where the model always takes several samples at once, an instance is all of them, with the batch axis.

        Raises:
            InvalidRequestError: When they are none, or do not fit the model.
        """
        if not isinstance(instances, list) or not instances:
            raise InvalidRequestError('a request is {"instances": [...]}, with at least one of them')
        feeds = [self._instance(instance) for instance in instances]
        for feed in feeds:
            self.check(feed)
        return feeds

    def _instance(self, instance: Any) -> Feed:
        if not isinstance(instance, dict):
            if len(self.inputs) != 1:
                raise InvalidRequestError(f"an instance is an object with {', '.join(spec['name'] for spec in self.inputs)}")
            instance = {self.inputs[0]["name"]: instance}
        names = {spec["name"] for spec in self.inputs}
        if set(instance) != names:
            raise InvalidRequestError(f"{self.name} takes {', '.join(sorted(names))}, an instance has {', '.join(instance)}")
        feed = {}
        for spec in self.inputs:
            axis = self._row_axes.get(spec["name"])
            shape = [size for at, size in enumerate(spec["shape"]) if at != axis]
            value = _unflattened(_cast(instance[spec["name"]], spec), shape)
            feed[spec["name"]] = value if axis is None else np.expand_dims(value, min(axis, value.ndim))
        return feed

    def predictions(self, answers: Sequence[Feed]) -> list[Any]:
        """Return the outputs of each instance by name, without the batch axis; the only output itself."""
        axes = self._row_axes
        rows = [
            {name: _listed(np.take(value, 0, axis=axes[name]) if name in axes else value) for name, value in answer.items()}
            for answer in answers
        ]
        return [next(iter(row.values())) for row in rows] if len(self.outputs) == 1 else list(rows)


class ServedModel(ModelInterface):
    """One session, which any number of threads may call; it runs one batch after the other.

    Args:
        folder: Where served_model.json is, and the model below it.
        executed: Told the samples of each execution.
    """

    def __init__(self, folder: str | Path, *, executed: Callable[[int], None] | None = None) -> None:
        super().__init__(folder)
        self._executed = executed
        self._lock = threading.Lock()
        start = time.perf_counter()
        path = self.folder / self.settings["file"]
        kind = _OpenVINO if self.settings["runtime"] == "openvino" else _OnnxRuntime
        self._session = kind(path, self.settings["runtime_fields"])
        self.effective = self._session.effective()
        self._warm_up()
        self.effective["load_s"] = time.perf_counter() - start
        self._report()

    def run(self, feed: Feed) -> Feed:
        """Run one request, which may be a batch itself; return all outputs by name.

        Raises:
            InvalidRequestError: When it does not fit the model.
        """
        return self.run_batch([feed])[0]

    def run_batch(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run requests together as far as their shapes and the largest batch allow; return the outputs of each.

        Raises:
            InvalidRequestError: When one of them does not fit the model.
        """
        for feed in feeds:
            self.check(feed)
        answers: dict[int, Feed] = {}
        for group in self._groups(feeds):
            answers.update(zip(group, self._run_together([feeds[index] for index in group]), strict=True))
        return [answers[index] for index in range(len(feeds))]

    def _groups(self, feeds: Sequence[Feed]) -> list[list[int]]:
        """Indices of requests that can be put together, at most ``max_batch`` samples each."""
        if not self.batches:
            return [[index] for index in range(len(feeds))]
        alike: dict[Any, list[int]] = collections.defaultdict(list)
        for index, feed in enumerate(feeds):
            alike[self._company(feed)].append(index)
        groups: list[list[int]] = []
        for indices in alike.values():
            samples = self.max_batch + 1
            for index in indices:
                count = self._count(feeds[index])
                if samples + count > self.max_batch:
                    groups.append([])
                    samples = 0
                groups[-1].append(index)
                samples += count
        return groups

    def _company(self, feed: Feed) -> Any:
        """What requests must have in common: their shapes besides the batch, and the inputs that all samples share."""
        key: list[Any] = []
        for spec in self.inputs:
            value, axis = feed[spec["name"]], self._axes.get(spec["name"])
            shape = value.shape if axis is None else value.shape[:axis] + value.shape[axis + 1 :]
            key.append((shape, value.tobytes() if axis is None else b""))
        return tuple(key)

    def _run_together(self, feeds: Sequence[Feed]) -> list[Feed]:
        if len(feeds) == 1:
            return [self._infer(feeds[0])]
        stacked = {
            name: np.concatenate([feed[name] for feed in feeds], axis=self._axes[name]) if name in self._axes else value
            for name, value in feeds[0].items()
        }
        outputs = self._infer(stacked)
        ends = np.cumsum([self._count(feed) for feed in feeds])[:-1]
        parts = {
            name: np.split(value, ends, axis=self._axes[name]) if name in self._axes else [value] * len(feeds)
            for name, value in outputs.items()
        }
        return [{name: pieces[index] for name, pieces in parts.items()} for index in range(len(feeds))]

    def _infer(self, feed: Feed) -> Feed:
        with self._lock:
            outputs = self._session.infer(feed)
        if self._executed is not None:
            self._executed(self.samples(feed))
        if path := os.environ.get("MOPT_SERVED_REPORT"):
            with open(f"{path}.batches", "a", encoding="utf-8") as file:
                file.write(f"{self.samples(feed)}\n")
        return outputs

    def _warm_up(self) -> None:
        """Run real samples alone and as a full batch, on this thread, before any other asks."""
        path = self.folder / "warmup.npz"
        if not path.is_file():
            return
        with np.load(path, allow_pickle=False) as stored:
            feed = {spec["name"]: _decoded(stored[f"input_{index}"], spec) for index, spec in enumerate(self.inputs)}
        self._session.infer(feed)
        if self.batches and self.max_batch > 1:
            self._session.infer(
                {
                    name: np.repeat(value, self.max_batch, axis=self._axes[name]) if name in self._axes else value
                    for name, value in feed.items()
                }
            )

    def _report(self) -> None:
        """Say what it computes in to whoever asks with $MOPT_SERVED_REPORT: mopt verify does."""
        if path := os.environ.get("MOPT_SERVED_REPORT"):
            scratch = Path(f"{path}.{os.getpid()}")
            scratch.write_text(json.dumps(self.effective), encoding="utf-8")
            scratch.replace(path)


# --- the runtimes ------------------------------------------------------------------------------------------------------------


class _OnnxRuntime:
    """ONNX Runtime with the providers and threads that were judged."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = fields.get("threads") or 0
        options.inter_op_num_threads = 1
        provider = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}.get(fields.get("provider", ""))
        wanted = [provider, "CPUExecutionProvider"] if provider else ["CPUExecutionProvider"]
        if provider == "TensorrtExecutionProvider":
            wanted.insert(1, "CUDAExecutionProvider")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        self._names = [output.name for output in self._session.get_outputs()]
        if provider and self._session.get_providers()[0] != provider:
            raise RuntimeError(f"{provider} could not be loaded; ONNX Runtime would run the model on the CPU in silence")

    def infer(self, feed: Feed) -> Feed:
        return dict(zip(self._names, self._session.run(self._names, feed), strict=True))

    def effective(self) -> dict[str, Any]:
        threads = int(self._session.get_session_options().intra_op_num_threads)
        return {
            "threads": threads, "streams": 1, "providers": self._session.get_providers(), "versions": _versions("onnxruntime"),
        }  # fmt: skip


class _OpenVINO:
    """OpenVINO's CPU plugin with the precision, threads and shapes that were judged."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        import openvino

        # The first tensor of a process must not be made on two threads at once: they would wait for each other for ever.
        openvino.Tensor(np.zeros(1, np.float32))
        self._core = openvino.Core()
        self._path = path
        self._static = fields.get("shapes") == "static"
        self._settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": fields.get("threads") or 0, "NUM_STREAMS": 1}
        if fields.get("precision", "default") != "default":
            self._settings["INFERENCE_PRECISION_HINT"] = fields["precision"]
        self._open()

    def _open(self) -> None:
        model = self._core.read_model(str(self._path))
        self._inputs = [port.get_any_name() for port in model.inputs]
        self._outputs = [port.get_any_name() for port in model.outputs]
        self._requests: dict[Any, Any] = {}
        self._answered: set[Any] = set()
        self._compiled = self._core.compile_model(model, "CPU", self._settings)
        self._any_shape = self._compiled.create_infer_request()

    def infer(self, feed: Feed) -> Feed:
        # One number that must not be written to, as a request over gRPC has it, is not taken as it is.
        values = [np.require(feed[name], requirements=["C", "W"]) for name in self._inputs]
        shapes = tuple(value.shape for value in values)
        try:
            results = self._results(self._request(shapes), shapes, values)
        except Exception:  # after which OpenVINO fails for inputs that are right too, until it is opened anew
            self._open()
            raise
        return {name: np.array(results[index]) for index, name in enumerate(self._outputs)}

    def _results(self, request: Any, shapes: Any, values: Sequence[Any]) -> Any:
        if shapes in self._answered:
            return request.infer(values, share_inputs=True)
        # With one thread, infer() is silent about shapes that the graph cannot compute, and gives the last answer once more.
        request.start_async(values, share_inputs=True)
        request.wait()
        if len(self._answered) == _MOST_ANSWERED:
            self._answered.clear()
        self._answered.add(shapes)
        return request.results

    def _request(self, shapes: Any) -> Any:
        if not self._static:
            return self._any_shape
        if shapes not in self._requests:
            if len(self._requests) == _MOST_SHAPES:
                self._requests.pop(next(iter(self._requests)))
            model = self._core.read_model(str(self._path))
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            compiled = self._core.compile_model(model, "CPU", self._settings)
            self._requests[shapes] = compiled.create_infer_request()
        return self._requests[shapes]

    def effective(self) -> dict[str, Any]:
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {
            "precision": _ARITHMETIC.get(hint, hint),
            "threads": int(self._compiled.get_property("INFERENCE_NUM_THREADS")),
            "streams": int(self._compiled.get_property("NUM_STREAMS")),
            "versions": _versions("openvino"),
        }


def _versions(library: str) -> dict[str, str]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return {library: metadata.version(library)}
    return {}


# --- tensors -----------------------------------------------------------------------------------------------------------------


def _dtype(value: Any) -> str:
    return "str" if value.dtype.kind in "OUS" else str(value.dtype.name)


def _described(spec: Mapping[str, Any]) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in spec["shape"]]
    return {"name": spec["name"], "datatype": DATATYPES[spec["dtype"]], "shape": shape}


def _parsed(entry: Mapping[str, Any], spec: Mapping[str, Any]) -> Any:
    name, datatype = spec["name"], DATATYPES[spec["dtype"]]
    if entry.get("datatype") != datatype:
        raise InvalidRequestError(f"{name} is {entry.get('datatype')}, and the model takes {datatype}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape
    ):
        raise InvalidRequestError(f"{name} has no shape that is a list of sizes")
    value = _cast(entry.get("data"), spec).ravel()
    if value.size != int(np.prod(shape, dtype=np.int64)):
        raise InvalidRequestError(f"{name} has {value.size} values, and its shape {shape} holds {int(np.prod(shape))}")
    return value.reshape(unscaled(spec, shape))


def unscaled(spec: Mapping[str, Any], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that the model takes a value in: one number may come with an axis where the model has none."""
    return () if not spec["shape"] and tuple(shape) == (1,) else tuple(shape)


def _unflattened(value: Any, shape: Sequence[int | str]) -> Any:
    """Add the axes behind one of size zero, which lists cannot tell."""
    if value.size or not 0 < value.ndim < len(shape):
        return value
    return value.reshape(*value.shape, *(size if isinstance(size, int) else 0 for size in shape[value.ndim :]))


def _cast(data: Any, spec: Mapping[str, Any]) -> Any:
    """Turn lists into an array of the model's type; a number that does not fit is a mistake, not another number."""
    name, dtype = spec["name"], spec["dtype"]
    try:
        return _texts(data) if dtype == "str" else _numbers(data, np.dtype(dtype))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(f"{name} cannot be read as {dtype}: {error}") from None


def _texts(data: Any) -> Any:
    value = np.array(data, dtype=object)
    if not all(isinstance(item, str) for item in value.ravel()):
        raise TypeError("a value is no text")
    return value


def _numbers(data: Any, dtype: Any) -> Any:
    raw = np.array(data)
    if raw.size and (raw.dtype.kind == "O" or (dtype.kind in "biu" and raw.dtype.kind == "f")):
        raw = _exact(np.array(data, dtype=object), dtype)
    if raw.size and raw.dtype.kind not in "biufO":
        raise TypeError("a value is no number, or rows differ in length")
    if dtype.kind in "biu" and raw.size:
        least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if raw.min() < least or raw.max() > most:
            raise OverflowError(f"a value does not fit into {dtype}")
    with np.errstate(over="ignore"):
        value = raw.astype(dtype)
    if dtype.kind == "f" and bool((infinite := np.isinf(value)).any()) and bool((infinite != np.isinf(np.float64(raw))).any()):
        raise OverflowError(f"a value does not fit into {dtype}")
    return value


def _exact(values: Any, dtype: Any) -> Any:
    """Return Python's own numbers, where NumPy has no one type for all of them or would make floats of large whole ones."""
    items = list(values.ravel())
    if not all(isinstance(item, (int, float)) for item in items):
        raise TypeError("a value is no number, or rows differ in length")
    if dtype.kind in "biu":
        if any(item != item // 1 for item in items):
            raise TypeError("a value is no whole number")
        items = [int(item) for item in items]
    exact = np.empty(len(items), dtype=object)
    exact[:] = items
    return exact.reshape(values.shape)


def _decoded(value: Any, spec: Mapping[str, Any]) -> Any:
    return value.astype(object) if spec["dtype"] == "str" else value


def _listed(value: Any) -> Any:
    if value.dtype.kind in "OUS":
        texts = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in value.ravel()]
        return np.array(texts, dtype=object).reshape(value.shape).tolist()
    return value.tolist()
