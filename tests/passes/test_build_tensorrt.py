"""Real engines, built without a GPU; the layer table says what they compute in."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.files import Model
from mopt.model.samples import Sample, Samples, write_samples
from mopt.passes import build_tensorrt
from mopt.passes._base import Pass, run_passes
from mopt.passes._tensorrt import ShapeRange
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.passes.convert_bfloat16 import ConvertBfloat16
from mopt.passes.convert_float16 import ConvertFloat16
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.passes.quantize_tensorrt import QuantizeTensorrt
from mopt.system.nvidia import Device, devices
from mopt.system.process import run
from tests.models import Case, case, load_samples, onnx_file
from tests.passes import graphs

pytest.importorskip("tensorrt_rtx", reason="needs mopt[tensorrt-rtx]")
pytestmark = pytest.mark.slow

ADA = ("8.9",)
IMAGE = (ShapeRange("image", (1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16)),)
SEQUENCE = (ShapeRange("x", (1, 8, 64), (4, 8, 64), (8, 8, 64)),)


def build(source: Model, folder: Path, **fields):
    """Build in a process of its own, as mopt does: some mistakes end it."""
    (folder / "model").mkdir(parents=True)
    (result,) = run(run_passes, (BuildTensorrt(**{"capabilities": ADA, **fields}),), source, folder / "model")
    return Model.at("tensorrt", folder / "model"), result["detail"]


def apply(step: Pass, source: Model, folder: Path) -> Model:
    return graphs.apply(step, source, folder)[0]


# --- small graphs -------------------------------------------------------------------------------------------------------

CNN_STEPS = {
    "fp32": (None, "Float"),
    "fp16": (lambda data: ConvertFloat16(calibration=data), "Half"),
    "bf16": (lambda _: ConvertBfloat16(), "BFloat16"),
    "int8": (lambda data: QuantizeTensorrt(calibration=data), "Int8"),
    "fp8": (lambda data: QuantizeTensorrt(calibration=data, arithmetic="fp8"), "FP8"),
}


@pytest.mark.parametrize("precision", CNN_STEPS)
def test_an_engine_computes_in_what_the_graph_says(tmp_path, precision):
    make, dtype = CNN_STEPS[precision]
    source = graphs.cnn(tmp_path / "cnn")
    if make is not None:
        source = apply(make(graphs.images(tmp_path / "data", 8)), source, tmp_path / "graph")
    made, detail = build(source, tmp_path / "engine", profiles=(IMAGE,))
    convolutions = [layer for layer in detail["layers"] if layer["nodes"] and any("Conv" in node for node in layer["nodes"])]
    found = {kind for layer in convolutions for kind in layer["inputs"]}
    assert any(kind.lower().startswith(dtype.lower()[:4]) for kind in found), (found, detail["computes"])
    assert made.file.stat().st_size > 10_000
    assert (made.folder / "onnx" / "model.onnx").is_file()
    assert detail["left_in_float"] == []


def test_int4_weights_are_multiplied_with_fp16(tmp_path):
    source = apply(
        QuantizeTensorrt(arithmetic="int4", block_size=32), graphs.transformer(tmp_path / "model"), tmp_path / "int4"
    )
    _, detail = build(source, tmp_path / "engine", profiles=(SEQUENCE,))
    assert sum(count for kind, count in detail["computes"].items() if kind.endswith("Half x Int4")) == 5


def test_one_engine_for_several_gpus_one_for_all_and_several_profiles(tmp_path):
    source = graphs.cnn(tmp_path / "cnn")
    small, _ = build(source, tmp_path / "one", profiles=(IMAGE,))
    both, detail = build(source, tmp_path / "two", profiles=(IMAGE,), capabilities=("8.9", "12.0"))
    assert detail["capabilities"] == ["8.9", "12.0"]
    assert both.file.stat().st_size > small.file.stat().st_size
    _, portable = build(source, tmp_path / "all", profiles=(IMAGE,), capabilities=())
    assert portable["capabilities"] == ["portable"]
    wide = (ShapeRange("image", (9, 3, 16, 16), (16, 3, 16, 16), (32, 3, 16, 16)),)
    twice, _ = build(source, tmp_path / "profiles", profiles=(IMAGE, wide))
    assert twice.file.stat().st_size > small.file.stat().st_size


# --- mistakes -----------------------------------------------------------------------------------------------------------


def quantized(tmp_path: Path, arithmetic: str) -> Model:
    step = QuantizeTensorrt(calibration=graphs.images(tmp_path / "data", 8), arithmetic=arithmetic)
    return apply(step, graphs.cnn(tmp_path / "cnn"), tmp_path / arithmetic)


def refused(source: Model, folder: Path, **fields) -> str:
    with pytest.raises((NotApplicableError, CandidateRejectedError)) as caught:
        build(source, folder, **fields)
    message = str(caught.value)
    assert "CUDA driver version" not in message
    assert "\n" not in message
    return message


def test_fp8_before_ada(tmp_path):
    found = refused(quantized(tmp_path, "fp8"), tmp_path / "engine", profiles=(IMAGE,), capabilities=("8.0",))
    assert found.startswith("this GPU has no FP8 arithmetic")


def test_int4_on_turing(tmp_path):
    source = apply(
        QuantizeTensorrt(arithmetic="int4", block_size=32), graphs.transformer(tmp_path / "model"), tmp_path / "int4"
    )
    found = refused(source, tmp_path / "engine", profiles=(SEQUENCE,), capabilities=("7.5",))
    assert found.startswith("this GPU does not take INT4 weights")


def test_int8_that_a_gpu_computes_in_float_all_the_same(tmp_path):
    found = refused(quantized(tmp_path, "int8"), tmp_path / "engine", profiles=(IMAGE,), capabilities=("7.5",))
    assert found == "none of 2 quantized operators computes in fewer bits on compute capability 7.5"


def test_a_missing_profile(tmp_path):
    assert refused(graphs.cnn(tmp_path / "cnn"), tmp_path / "engine").startswith("an input has a variable size and no profile")


def test_a_profile_in_the_wrong_order(tmp_path):
    wrong = (ShapeRange("image", (4, 3, 16, 16), (2, 3, 16, 16), (8, 3, 16, 16)),)
    found = refused(graphs.cnn(tmp_path / "cnn"), tmp_path / "engine", profiles=(wrong,))
    assert found.startswith("the shapes of a profile are not in the order min, opt, max")


def test_an_unknown_operator_is_named_with_its_node(tmp_path):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> det (float[batch, 4, 4] x) => (float[batch] y) { z = Relu (x) y = Det (z) }'
    )
    shapes = (ShapeRange("x", (1, 4, 4), (1, 4, 4), (2, 4, 4)),)
    found = refused(graphs.model(tmp_path / "model", text), tmp_path / "engine", profiles=(shapes,))
    assert found == "TensorRT has no Det (Det_1)"


def test_integers_of_onnxruntime_are_refused_with_the_pass_that_helps(tmp_path):
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 8)
    uint8 = apply(QuantizeInt8Static(calibration=data), source, tmp_path / "uint8")
    assert "zero point is not 0; quantize with quantize_tensorrt" in refused(uint8, tmp_path / "one", profiles=(IMAGE,))
    bias = apply(QuantizeInt8Static(calibration=data, activations="int8"), source, tmp_path / "int8")
    assert refused(bias, tmp_path / "two", profiles=(IMAGE,)).startswith("a bias is quantized to INT32")


def test_operators_of_onnxruntime_are_not_even_read(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    fused (float[batch, 4] x) => (float[batch, 4] y) { y = com.microsoft.Gelu (x) }
    """
    assert "com.microsoft" in refused(graphs.model(tmp_path / "model", text), tmp_path / "engine")


def test_gpus_that_rtx_does_not_build_for(tmp_path):
    found = refused(graphs.cnn(tmp_path / "cnn"), tmp_path / "engine", profiles=(IMAGE,), capabilities=("9.0",))
    assert "does not build for compute capability 9.0, only for SM120" in found


@pytest.mark.skipif(bool(devices()), reason="there is a GPU")
def test_a_workspace_that_is_too_small(tmp_path):
    found = refused(graphs.cnn(tmp_path / "cnn"), tmp_path / "engine", profiles=(IMAGE,), workspace_bytes=1024)
    assert "workspace" in found


def test_a_branch_that_only_the_data_decides(tmp_path):
    """silero-vad has an If whose branches give tensors of different rank."""
    chosen = case("silero_vad", tmp_path, 8)
    source = as_model(chosen, tmp_path / "source")
    found = refused(source, tmp_path / "engine", profiles=(ranges(source, chosen),))
    assert "If" in found or "TensorRT" in found


def test_timings_are_kept_for_one_library_gpu_driver_and_set_of_options(tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_CACHE", str(tmp_path))

    def place(driver="13.0", version="11.4", **fields):
        monkeypatch.setattr(build_tensorrt, "devices", lambda: (Device("NVIDIA L4", "8.9", 1 << 34, driver),))
        return BuildTensorrt(library="tensorrt", **fields)._timing_cache(version)

    assert place() == place()
    assert place().is_relative_to(tmp_path)
    assert len({place(), place(driver="13.1"), place(version="11.5"), place(level=5), place(hardware="ampere")}) == 5


# --- real models --------------------------------------------------------------------------------------------------------


LIMITS = {"efficientnet_lite0": 60, "magika": 200, "minilm_sentiment": 200, "ocr_cls": 40}
"""Samples with which other tests prepare a model too; it takes a minute for some."""


def as_model(chosen: Case, folder: Path) -> Model:
    folder.mkdir()
    (folder / "model.onnx").symlink_to(onnx_file(chosen).resolve())
    return Model.at("onnx", folder)


def ranges(source: Model, chosen: Case) -> tuple[ShapeRange, ...]:
    feed, _ = load_samples(chosen.data)[0]
    found = []
    for value in onnx.load(source.file, load_external_data=False).graph.input:
        if any(axis.dim_param for axis in value.type.tensor_type.shape.dim):
            rest = feed[value.name].shape[1:]
            found.append(ShapeRange(value.name, (1, *rest), (4, *rest), (8, *rest)))
    return tuple(found)


def prepared(name: str, cases: Path, folder: Path) -> tuple[Model, tuple[ShapeRange, ...], Samples]:
    chosen = case(name, cases, LIMITS.get(name, 16))
    source = as_model(chosen, folder / "source")
    (folder / "samples").mkdir()
    feeds = [feed for feed, _ in load_samples(chosen.data)[:8]]
    return source, ranges(source, chosen), write_samples(folder / "samples", [Sample(feed) for feed in feeds])


MULTIPLIED = {
    ("resnet50", "int8"): 54,
    ("efficientnet_lite0", "fp8"): 50,
    ("ocr_cls", "int8"): 52,
    ("ocr_cls", "fp8"): 52,
    ("ocr_det", "int8"): 57,
    ("magika", "int8"): 3,
    ("magika", "fp8"): 3,
    ("minilm_sentiment", "int8"): 24,
}
"""Layers that multiply in 8 bits at the least; products of one input are one layer."""


@pytest.mark.parametrize(("name", "arithmetic"), MULTIPLIED)
def test_real_models_compute_in_the_eight_bits_they_were_made_for(name, arithmetic, cases, tmp_path):
    source, shapes, samples = prepared(name, cases, tmp_path)
    graph = apply(QuantizeTensorrt(calibration=samples, arithmetic=arithmetic), source, tmp_path / arithmetic)
    _, detail = build(graph, tmp_path / "engine", profiles=(shapes,) if shapes else ())
    word = {"int8": "Int8", "fp8": "FP8"}[arithmetic]
    eight_bits = sum(count for kind, count in detail["computes"].items() if kind.endswith(f" {word}"))
    assert eight_bits >= MULTIPLIED[name, arithmetic], detail["computes"]
    assert len(detail["left_in_float"]) <= 1
    if name == "resnet50":
        assert detail["computes"]["correlation Int8"] == 53


@pytest.mark.parametrize("name", ["ocr_cls", "magika"])
def test_real_models_compute_in_the_floats_they_were_made_for(name, cases, tmp_path):
    source, shapes, samples = prepared(name, cases, tmp_path)
    profiles = (shapes,) if shapes else ()
    _, plain = build(source, tmp_path / "fp32", profiles=profiles)
    assert not [kind for kind in plain["computes"] if "Half" in kind]
    half = apply(ConvertFloat16(calibration=samples), source, tmp_path / "half")
    counts = build(half, tmp_path / "fp16", profiles=profiles)[1]["computes"]
    assert sum(count for kind, count in counts.items() if kind.endswith(" Half")) > 0.9 * sum(counts.values())


def test_bert_base_in_four_bits(cases, tmp_path):
    source, shapes, _ = prepared("bert_base", cases, tmp_path)
    graph = apply(QuantizeTensorrt(arithmetic="int4"), source, tmp_path / "int4")
    computes = build(graph, tmp_path / "engine", profiles=(shapes,) if shapes else ())[1]["computes"]
    # Query, key and value may be one product of three: at least four products a layer.
    assert sum(count for kind, count in computes.items() if kind.endswith("Half x Int4")) >= 48, computes
