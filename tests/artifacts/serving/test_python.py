import importlib.util
import json
import sys

import numpy as np
import pytest

from mopt.artifacts.serving._files.served_model import ServedModel
from mopt.artifacts.serving._names import service_name
from mopt.artifacts.serving._python import requirements, write_served_model
from mopt.errors import NotApplicableError
from mopt.model.signature import Signature, TensorSpec
from mopt.profiles.machine import detect
from tests.manifests import HOSTILE, manifest
from tests.passes.graphs import model, weights

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[batch, 8] x) => (float[batch, 2] y) { a = MatMul (x, w0) b = Relu (a) y = MatMul (b, w1) }
"""
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 8)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
    batch_axes={"x": 0, "y": 0},
)
FEED = {"x": np.linspace(-1, 1, 8, dtype=np.float32)[None]}


@pytest.mark.parametrize("precision", ["f32", "bf16", "default"])
def test_openvino_is_opened_as_it_was_judged(tmp_path, precision, monkeypatch):
    source = model(tmp_path / "source", NETWORK, weights(w0=(8, 64), w1=(64, 2)))
    monkeypatch.setattr("mopt.artifacts.serving._python.model_format", lambda _: type("F", (), {"main_file": "model.onnx"}))
    fields = {"threads": 1, "precision": precision, "shapes": "static" if precision == "f32" else "dynamic"}
    record = manifest(
        runtime="openvino", format="openvino", runtime_fields=fields, signature=SIGNATURE,
        batching=manifest().batching.model_copy(update={"threads": 1}),
    )  # fmt: skip
    write_served_model(tmp_path, manifest=record, model_folder=source.folder, golden=[FEED])
    served = ServedModel(tmp_path)
    default = "bf16" if {"avx512_bf16", "amx_bf16"} & set(detect().isa) else "fp32"
    assert served.effective["precision"] == {"f32": "fp32", "bf16": "bf16", "default": default}[precision]
    assert (served.effective["threads"], served.effective["streams"]) == (1, 1)
    together = served.run_batch([FEED, FEED])
    np.testing.assert_allclose(together[0]["y"], served.run(FEED)["y"], rtol=1e-2)
    assert served.run(FEED)["y"].shape == (1, 2)


def test_openvino_takes_one_number_that_must_not_be_written_to(tmp_path, monkeypatch):
    scaled = """
    <ir_version: 8, opset_import: ["" : 17]>
    scaled (float scale, float[batch, 8] x) => (float[batch, 8] y) { y = Mul (x, scale) }
    """
    monkeypatch.setattr("mopt.artifacts.serving._python.model_format", lambda _: type("F", (), {"main_file": "model.onnx"}))
    signature = SIGNATURE.model_copy(
        update={"inputs": (TensorSpec(name="scale", dtype="float32", shape=()), *SIGNATURE.inputs)}
    )
    record = manifest(runtime="openvino", format="openvino", runtime_fields={"threads": 1}, signature=signature)
    write_served_model(tmp_path, manifest=record, model_folder=model(tmp_path / "source", scaled).folder, golden=[])
    sent = {"scale": np.frombuffer(np.float32(2).tobytes(), np.float32).reshape(()), **FEED}
    np.testing.assert_array_equal(ServedModel(tmp_path).run(sent)["y"], 2 * FEED["x"])


def test_the_file_needs_nothing_of_mopt(tmp_path, monkeypatch):
    source = model(tmp_path / "source", NETWORK, weights(w0=(8, 64), w1=(64, 2)))
    write_served_model(tmp_path, manifest=manifest(signature=SIGNATURE), model_folder=source.folder, golden=[FEED])
    for name in [name for name in sys.modules if name.partition(".")[0] == "mopt"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("served_alone", tmp_path / "served_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.ServedModel(tmp_path).run(FEED)["y"].shape == (1, 2)


def test_the_settings_are_those_that_were_judged_and_planned(tmp_path):
    source = model(tmp_path / "source", NETWORK, weights(w0=(8, 64), w1=(64, 2)))
    batching = manifest().batching.model_copy(update={"threads": 3, "instances": 2, "max_batch": 16, "queue_delay_us": 700})
    record = manifest(name=HOSTILE, signature=SIGNATURE, batching=batching, runtime_fields={"threads": 8})
    write_served_model(tmp_path, manifest=record, model_folder=source.folder, golden=[])
    settings = json.loads((tmp_path / "served_model.json").read_text())
    assert settings["runtime_fields"] == {"threads": 3}
    assert (settings["max_batch"], settings["queue_delay_us"], settings["instances"]) == (16, 700, 2)
    assert settings["name"] == service_name(HOSTILE)
    assert (tmp_path / settings["file"]).is_file()
    assert not (tmp_path / "warmup.npz").exists()


def test_what_it_cannot_open_is_refused(tmp_path):
    for record in (
        manifest(format="tensorrt", runtime="tensorrt"),
        manifest(signature=SIGNATURE.model_copy(update={"inputs": (TensorSpec(name="x", dtype="bfloat16", shape=(1,)),)})),
    ):
        with pytest.raises(NotApplicableError):
            write_served_model(tmp_path, manifest=record, model_folder=tmp_path, golden=[])


def test_the_runtime_is_installed_in_the_version_that_was_judged():
    assert requirements(manifest(versions={"onnxruntime": "1.30.0"}), "bentoml") == ["onnxruntime==1.30.0", "numpy", "bentoml"]
