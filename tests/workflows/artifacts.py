"""Artifacts that no build had to make: a model of a line of ONNX, its golden samples, and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mopt.artifacts.bundle import write_artifact
from mopt.model.files import Model
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.profiles.machine import detect
from mopt.records.manifest import Golden, Manifest
from tests import manifests
from tests.passes import graphs

DOUBLE = """
<ir_version: 8, opset_import: ["" : 17]>
double (float[batch, 2] x) => (float[batch, 2] y, float[batch, 2] same) { y = Add (x, x) same = Identity (x) }
"""


def doubling(folder: Path, text: str = DOUBLE) -> Model:
    """The model that ``tests.servers.Queue`` serves."""
    return graphs.model(folder, text)


def signature() -> Signature:
    """Of the model that doubles."""
    tensors = {name: TensorSpec(name=name, dtype="float32", shape=("batch", 2)) for name in ("x", "y", "same")}
    outputs = (tensors["y"], tensors["same"])
    return Signature(inputs=(tensors["x"],), outputs=outputs, batch_axes=dict.fromkeys(tensors, 0))


def feeds(count: int = 3) -> list[Feed]:
    return [{"x": np.float32([[index, -index]])} for index in range(count)]


def answers(inputs: list[Feed]) -> list[Feed]:
    return [{"y": 2 * feed["x"], "same": feed["x"]} for feed in inputs]


def write(folder: Path, model: Model, *, golden_outputs: list[Feed] | None = None, **changes: Any) -> Manifest:
    """Write the artifact ``double``, built here with one thread; ``changes`` are of the manifest."""
    inputs = feeds()
    fields: dict[str, Any] = {
        "name": "double",
        "machine": detect(),
        "signature": signature(),
        "runtime_fields": {"threads": 1},
        "recipe": {"model": "double.onnx", "name": "double", "data": {"path": "double.npz"}, "tolerance": "3%"},
        "golden": Golden(count=len(inputs), tolerance={"y": 1e-5, "same": 1e-5}),
        **changes,
    }
    return write_artifact(
        folder,
        model=model,
        manifest=manifests.manifest(**fields),
        golden_inputs=inputs,
        golden_outputs=golden_outputs or answers(inputs),
        serving=(),
    )
