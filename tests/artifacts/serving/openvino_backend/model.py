"""Triton's openvino backend as a python-based backend, where the one in C++ cannot be installed.

Triton's core (configuration, dynamic batcher, warm-up, protocols) is the real one. What is done with the parameters is what
src/openvino.cc of the backend does: the keys below are looked up, every other key is ignored, and no precision but BF16 can be
asked for. The batch is fixed at the largest, and smaller ones are padded where that is allowed.
"""

import json
from pathlib import Path

import numpy as np
import openvino

PROPERTIES = {
    "INFERENCE_NUM_THREADS": int,
    "COMPILATION_NUM_THREADS": int,
    "NUM_STREAMS": lambda value: value if value in {"AUTO", "NUMA"} else int(value),
    "PERFORMANCE_HINT": str,
}


def compiled(path, parameters, max_batch):
    """Compile a model for the CPU as the backend does."""
    core = openvino.Core()
    for key, convert in PROPERTIES.items():
        if key in parameters:
            core.set_property("CPU", {key: convert(parameters[key])})
    if "HINT_BF16" in parameters:
        if parameters["HINT_BF16"] != "YES":
            raise ValueError("HINT_BF16 only takes YES")
        core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    model = core.read_model(str(path))
    if max_batch:
        for parameter in model.get_parameters():
            parameter.set_layout(openvino.Layout("N..."))
        openvino.set_batch(model, max_batch)
    return core.compile_model(model, "CPU")


def reported(compiled_model):
    """What OpenVINO says of a compiled model."""
    return {
        "precision": compiled_model.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        "threads": int(compiled_model.get_property("INFERENCE_NUM_THREADS")),
        "streams": int(compiled_model.get_property("NUM_STREAMS")),
    }


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.most = config["max_batch_size"]
        path = Path(args["model_repository"]) / args["model_version"] / "model.xml"
        compiled_model = compiled(path, self.parameters, self.most)
        path.with_name("reported.json").write_text(json.dumps(reported(compiled_model)))
        self.request = compiled_model.create_infer_request()
        self.inputs = [value["name"] for value in config["input"]]
        self.outputs = [value["name"] for value in config["output"]]

    def execute(self, requests):
        import triton_python_backend_utils as triton

        feeds = [
            {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs} for request in requests
        ]
        groups = [feeds] if self.most else [[feed] for feed in feeds]
        answers = [answer for group in groups for answer in self.run(group)]
        return [
            triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self.outputs, answer, strict=True)])
            for answer in answers
        ]

    def run(self, feeds):
        sizes = [len(feed[self.inputs[0]]) for feed in feeds]
        stacked = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        missing = self.most - sum(sizes) if self.most else 0
        if missing and self.parameters.get("ENABLE_BATCH_PADDING") != "YES":
            raise ValueError(f"expected requests with batch size {self.most}, got {sum(sizes)}")
        if missing:
            stacked = {name: np.concatenate([value, np.repeat(value[-1:], missing, axis=0)]) for name, value in stacked.items()}
        results = self.request.infer(stacked)
        whole = [np.array(results[name])[: sum(sizes)] for name in self.outputs]
        return zip(*(np.split(value, np.cumsum(sizes)[:-1]) for value in whole), strict=True)
