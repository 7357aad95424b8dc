"""Triton's onnxruntime backend as a python-based backend, where the one in C++ cannot be installed.

Triton's core (configuration, dynamic batcher, warm-up, protocols) is the real one. The checks of the tensors are those
that the backend in C++ makes: types and ranks equal, inputs compatible, outputs equal.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

TYPES = {
    "tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64", "tensor(float16)": "TYPE_FP16",
    "tensor(int64)": "TYPE_INT64", "tensor(int32)": "TYPE_INT32", "tensor(uint8)": "TYPE_UINT8",
    "tensor(bool)": "TYPE_BOOL", "tensor(string)": "TYPE_STRING",
}  # fmt: skip


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        options.intra_op_num_threads = int(given.get("intra_op_thread_count", 0))
        options.inter_op_num_threads = int(given.get("inter_op_thread_count", 0))
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.batched = config["max_batch_size"] > 0
        self.ranks = {value.name: len(value.shape) for value in self.session.get_inputs()}
        check(config["input"], self.session.get_inputs(), self.batched, exact=False)
        check(config["output"], self.session.get_outputs(), self.batched, exact=True)
        self.outputs = [value["name"] for value in config["output"]]

    def execute(self, requests):
        feeds = [{name: self.take(request, name) for name in self.ranks} for request in requests]
        if not self.batched:
            return [self.answer(self.session.run(self.outputs, feed)) for feed in feeds]
        concurrent = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.ranks}
        cuts = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])[:-1]
        parts = [np.split(value, cuts) for value in self.session.run(self.outputs, concurrent)]
        return [self.answer([part[index] for part in parts]) for index in range(len(requests))]

    def take(self, request, name):
        value = triton.get_input_tensor_by_name(request, name).as_numpy()
        if value.dtype == object:
            value = np.array([item.decode() for item in value.ravel()], dtype=object).reshape(value.shape)
        return value.reshape(()) if self.ranks[name] == 0 else value

    def answer(self, values):
        values = [np.char.encode(value.astype(str)).astype(object) if value.dtype == object else value for value in values]
        return triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self.outputs, values, strict=True)])


def check(wanted, found, batched, exact):
    by_name = {value.name: value for value in found}
    if {value["name"] for value in wanted} != set(by_name):
        raise triton.TritonModelException(f"the model has {sorted(by_name)}")
    for value in wanted:
        name, model = value["name"], by_name[value["name"]]
        dims = value.get("reshape", {}).get("shape", value["dims"])
        shape = [size if isinstance(size, int) else -1 for size in model.shape]
        if TYPES[model.type] != value["data_type"]:
            raise triton.TritonModelException(f"{name}: {value['data_type']}, and the model has {model.type}")
        if not shape:
            dims = [size for size in map(int, dims) if size != 1]
        full = [*([-1] if batched else []), *map(int, dims)]
        same = [have == want or (have == -1 and not exact) for have, want in zip(shape, full, strict=False)]
        if len(shape) != len(full) or not all(same):
            raise triton.TritonModelException(f"{name}: dims {full}, and the model has {shape}")
