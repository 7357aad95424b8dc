"""Builds for a GPU on a machine without one: engines that are real, quality that is judged, and no speed anywhere."""

import dataclasses
import json
import re

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from typer.testing import CliRunner

import mopt
from mopt.cli.bench import app as bench
from mopt.cli.gate import app as gate
from mopt.cli.inspect import app as inspect
from mopt.cli.rebuild import app as rebuild_command
from mopt.cli.size import app as size
from mopt.errors import Rejection, UserError
from mopt.model.samples import Sample, write_samples
from mopt.model.signature import Signature, TensorSpec
from mopt.passes._tensorrt import ShapeRange
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.passes.convert_float16 import ConvertFloat16
from mopt.passes.quantize_tensorrt import QuantizeTensorrt
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target, target_names
from mopt.recipe import Engine
from mopt.records.quality import Quality
from mopt.runtimes.onnxruntime_gpu import OnnxRuntimeGpu
from mopt.runtimes.tensorrt import TensorRT
from mopt.search.trial import Candidate, new_trial
from mopt.search.without_device import _first, engine_pass, runs_here, shape_ranges
from mopt.system.nvidia import devices, version_of
from mopt.system.store import Store
from mopt.workflows.rebuild import rebuild
from mopt.workflows.verify import verify
from tests.passes import graphs
from tests.small import digits

ADA = load_target("rtx-4090", detect()).gpu
TEXT = Signature(
    inputs=(
        TensorSpec(name="ids", dtype="int64", shape=("batch", "length")),
        TensorSpec(name="scale", dtype="float32", shape=(1,)),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
    batch_axes={"ids": 0, "y": 0},
)


@pytest.fixture
def texts(tmp_path):
    feeds = [{"ids": np.ones((1, length), np.int64), "scale": np.ones(1, np.float32)} for length in (5, 9, 7, 30)]
    (tmp_path / "samples").mkdir()
    return write_samples(tmp_path / "samples", [Sample(feed) for feed in feeds])


# --- shapes -------------------------------------------------------------------------------------------------------------


def test_a_profile_covers_the_batches_and_the_shapes_in_the_data(texts):
    assert shape_ranges(TEXT, texts, 8, 32) == (ShapeRange("ids", (1, 5), (8, 9), (32, 30)),)
    found = engine_pass(ADA, Engine(), TEXT, texts, 4)
    assert found.profiles == ((ShapeRange("ids", (1, 5), (4, 9), (4, 30)),),)
    assert found.capabilities == ("8.9",)


def test_profiles_capabilities_and_limits_can_be_given(texts):
    asked = Engine(
        profiles=({"ids": ((1, 1), (1, 16), (1, 64))}, {"ids": ((2, 1), (8, 16), (16, 64))}),
        capabilities=("12.0",), workspace="1GB", level=4,
    )  # fmt: skip
    found = engine_pass(ADA, asked, TEXT, texts, 4)
    assert [one.most for (one,) in found.profiles] == [(1, 64), (16, 64)]
    assert (found.capabilities, found.workspace_bytes, found.level) == (("12.0", "8.9"), 10**9, 4)
    assert engine_pass(ADA, Engine(portable=True), TEXT, texts, 4).capabilities == ()


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"idz": ((1, 1), (1, 1), (1, 1))}, "names idz, which is no input"),
        ({"ids": ((1,), (1,), (1,))}, r"the shape \[1\], and the model has ids"),
        ({"ids": ((4, 1), (2, 1), (8, 1))}, "not in the order smallest, best, largest"),
        ({"scale": ((2,), (2,), (2,))}, r"gives scale the shape \[2\]"),
        ({"ids": ((1, 1), (2, 8), (3, 9))}, "cover batches of ids up to 3, and batches up to 4 are asked for"),
        ({"scale": ((1,), (1,), (1,))}, "cover batches of ids up to 0"),
    ],
)
def test_a_profile_that_does_not_fit_is_a_mistake(texts, profile, words):
    with pytest.raises(UserError, match=words):
        engine_pass(ADA, Engine(profiles=(profile,)), TEXT, texts, 4)


# --- the choice ---------------------------------------------------------------------------------------------------------


def entry(name, *, snr=20.0, float_nodes=(), arithmetic="int8", wrong=False):
    step = QuantizeTensorrt(arithmetic=arithmetic, float_nodes=float_nodes) if arithmetic else ConvertFloat16()
    found = new_trial(Candidate(name, (step, BuildTensorrt()), TensorRT()))
    fidelity = {"y.snr_db": snr}
    quality = Quality(
        metric="accuracy", value=0.9, reference=0.9, difference=0.0, bound=-0.01, allowed=-0.01, confidence=0.95, count=100,
        verdict="pass", fidelity=fidelity,
    )  # fmt: skip
    found = found.update(quality=quality)
    return found.reject(Rejection.WORSE, "worse") if wrong else found


def test_the_first_kind_that_is_right_is_taken_and_of_it_the_most_faithful():
    int8, entropy, half = entry("int8"), entry("int8-entropy", snr=30), entry("fp16", snr=60, arithmetic="")
    assert _first([int8, entropy, half]) is entropy
    assert _first([entry("int8", wrong=True), entry("int8-entropy", snr=30, wrong=True), half]) is half
    two, one = entry("int8-mixed2", float_nodes=("a", "b"), snr=40), entry("int8-mixed1", float_nodes=("a",), snr=25)
    assert _first([entry("int8", wrong=True), half, entry("fp8", arithmetic="fp8"), two, one]) is one
    assert _first([entry("int8", wrong=True)]) is None
    mended = entry("fp16-mixed1", arithmetic="")
    assert _first([entry("fp16", arithmetic="", wrong=True), entry("fp8", arithmetic="fp8"), mended]) is mended


# --- a build ------------------------------------------------------------------------------------------------------------

needs = [
    pytest.mark.slow,
    pytest.mark.skipif(not version_of("tensorrt_rtx"), reason="needs mopt[tensorrt-rtx]"),
    pytest.mark.skipif(bool(devices()), reason="there is a GPU"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    small = digits(folder)
    artifact = mopt.build(
        model=str(small.model), data=str(small.data), target="rtx-4090", out=folder / "digits.mopt",
        store=Store(folder / "cache"),
        search={"max_batch": 4}, traffic={"rate": 100},
    )  # fmt: skip
    return small, folder, artifact


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.mark.usefixtures("built")
class TestBuild:
    pytestmark = needs

    def test_an_engine_that_is_right_is_chosen_and_no_speed_is_claimed(self, built):
        _, _, artifact = built
        manifest = artifact.manifest
        assert manifest.format == "tensorrt"
        assert manifest.winner.quality.verdict == "pass"
        assert "skipped: no GPU" in manifest.why
        assert all(trial.profile is None for trial in manifest.trials)
        assert manifest.serving_profile is None
        assert manifest.batching.predicted_p99_ms is None
        tried = {trial.name: trial for trial in manifest.trials}
        assert {"tensorrt-int8", "tensorrt-fp8", "tensorrt-fp16", "tensorrt-int4", "tensorrt-fp32"} <= tried.keys()
        assert "tensorrt-bf16" not in tried, "no CPU can judge it"
        assert {one.outcome.rejection for one in tried.values() if one.outcome} <= {Rejection.SKIPPED, Rejection.WORSE}

    def test_the_layer_table_is_in_the_manifest_and_the_report(self, built):
        _, _, artifact = built
        detail = artifact.manifest.winner.passes[-1].detail
        assert any("Int8" in kind for kind in detail["computes"])
        assert detail["layers"]
        page = (artifact.folder / "report.html").read_text()
        assert "layers of the engine" in page
        assert detail["layers"][-1]["name"] in page
        # How long the passes took is no latency.
        passes = r'<table>\s*<thead><tr><th scope="col">Pass</th>.*?</table>'
        rest, dropped = re.subn(passes, "", page, flags=re.DOTALL)
        assert dropped == 1
        assert not re.search(r"\d ms", re.sub(r"<style.*?</style>|<svg.*?</svg>", "", rest, flags=re.DOTALL))

    def test_the_engine_and_what_it_came_from_lie_side_by_side(self, built):
        _, _, artifact = built
        files = {path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file()}
        assert {"model/model.plan", "model/onnx/model.onnx", "serving/triton/digits/1/model.plan"} <= files
        assert "serving/triton/digits/1/onnx/model.onnx" not in files
        config = (artifact.folder / "serving/triton/digits/config.pbtxt").read_text()
        assert 'platform: "tensorrt_plan"' in config
        assert "KIND_GPU" in config
        assert "preferred_batch_size" not in config

    def test_verify_replays_what_it_came_from_and_says_so(self, built):
        _, _, artifact = built
        found = verify(artifact.folder)
        assert found.ok
        assert any("not loaded" in warning for warning in found.warnings)

    def test_the_other_commands_say_what_they_cannot_do(self, built, tmp_path):
        small, _, artifact = built
        assert "no GPU" in str(run(bench, artifact.folder).exception)
        assert "nothing was measured" in str(run(size, artifact.folder, "--rate", "10").exception)
        assert "onnx" in run(inspect, artifact.folder).output
        arguments = ["--against", small.model, "--data", small.data, "--json"]
        found = json.loads(run(gate, artifact.folder, *arguments).stdout)
        assert found["verdict"] == "pass"
        assert any("no GPU" in warning for warning in found["warnings"])
        assert not [check for check in found["checks"] if check["kind"] == "speed"]
        limited = json.loads(run(gate, artifact.folder, *arguments, "--limit", "p99: +5%").stdout)
        assert limited["verdict"] == "inconclusive"

    def test_several_profiles_come_with_the_batches_that_they_are_tuned_for(self, built, tmp_path):
        small, folder, _ = built
        artifact = mopt.build(
            model=str(small.model), data=str(small.data), target="rtx-4090", out=tmp_path / "two.mopt",
            store=Store(folder / "cache"), serve=["triton"], engine={"profiles": [
                {"pixels": ((1, 64), (1, 64), (1, 64))}, {"pixels": ((2, 64), (8, 64), (16, 64))},
            ]}, search={"max_batch": 16, "candidates": ["tensorrt-fp16"]},
        )  # fmt: skip
        config = (artifact.folder / "serving/triton/digits/config.pbtxt").read_text()
        assert 'kind: KIND_GPU profile: [ "0", "1" ]' in config
        assert "preferred_batch_size: [ 1, 8 ]" in config
        assert "max_batch_size: 16" in config

    def test_it_is_rebuilt_for_another_gpu(self, built, tmp_path):
        _, folder, artifact = built
        result = run(rebuild_command, artifact.folder, "--target", "rtx-5090", "--out", tmp_path / "new.mopt", "--json")
        assert json.loads(result.stdout)["runtime_fields"]["capabilities"] == ["12.0"]
        new = mopt.Artifact.open(tmp_path / "new.mopt").manifest
        assert new.target["name"] == "nvidia-rtx-5090"
        assert new.winner.quality == artifact.manifest.winner.quality
        assert new.winner.passes[-1].fields["profiles"] == artifact.manifest.winner.passes[-1].fields["profiles"]
        assert verify(tmp_path / "new.mopt").ok
        assert (tmp_path / "new.mopt/model/model.plan").read_bytes() != (artifact.folder / "model/model.plan").read_bytes()
        with pytest.raises(UserError, match="exists already"):
            rebuild(artifact.folder, "rtx-5090", out=tmp_path / "new.mopt", store=Store(folder / "cache"))

    @pytest.mark.parametrize(
        ("target", "words"), [("h100", "on the GPU itself"), ("cpu", "is no GPU"), ("l44", "unknown target")]
    )
    def test_what_cannot_be_rebuilt_is_told(self, built, tmp_path, target, words):
        _, _, artifact = built
        with pytest.raises(UserError, match=words):
            rebuild(artifact.folder, target, out=tmp_path / "new.mopt")

    def test_a_changed_onnx_is_not_built(self, built, tmp_path):
        import shutil

        _, _, artifact = built
        copy = tmp_path / "copy.mopt"
        shutil.copytree(artifact.folder, copy)
        (copy / "model/onnx/model.onnx").write_bytes(b"something else")
        with pytest.raises(UserError, match="is not what was built"):
            rebuild(copy, "l4", out=tmp_path / "new.mopt")


class TestMixedPrecision:
    pytestmark = needs

    def test_an_operator_that_eight_bits_ruin_stays_in_fp16(self, tmp_path):
        small = digits(tmp_path)
        model = onnx.load(small.model)
        for weight in model.graph.initializer:  # a hidden unit a thousand times as large as the others, and as much less heard
            values = onnx.numpy_helper.to_array(weight).copy()
            if weight.name in ("w0", "b0"):
                values[..., 0] *= 1000
            if weight.name == "w1":
                values[0] /= 1000
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(model, small.model)
        artifact = mopt.build(
            model=str(small.model), data=str(small.data), target="rtx-4090", out=tmp_path / "mixed.mopt",
            store=Store(tmp_path / "cache"), search={"max_batch": 4, "candidates": ["tensorrt-int8", "tensorrt-fp16"]},
        )  # fmt: skip
        tried = {trial.name: trial for trial in artifact.manifest.trials}
        assert tried["tensorrt-int8"].outcome.rejection is Rejection.WORSE
        assert artifact.manifest.chosen == "tensorrt-int8-mixed1"
        quantize, engine = artifact.manifest.winner.passes[-2:]
        assert len(quantize.fields["float_nodes"]) == 1
        assert {kind.split()[-1] for kind in engine.detail["computes"]} >= {"Int8", "Half"}
        assert tried["tensorrt-fp16"].outcome.rejection is Rejection.SKIPPED


@pytest.mark.slow
@pytest.mark.skipif(not devices() or not OnnxRuntimeGpu().installed(), reason="no GPU, or no onnxruntime-gpu")
def test_on_a_gpu_speed_is_measured_and_the_server_gets_the_gpu(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    wide (float[batch, 256] x) => (float[batch, 8] y)
    { a = MatMul (x, w0) b = Relu (a) c = MatMul (b, w1) d = Relu (c) y = MatMul (d, w2) }
    """
    model = graphs.model(tmp_path, text, graphs.weights(w0=(256, 4096), w1=(4096, 4096), w2=(4096, 8))).file
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).standard_normal((200, 256)).astype(np.float32))
    targets = [load_target(name, detect()) for name in target_names()]
    (target, *_) = [one.name for one in targets if one.gpu and runs_here(one.gpu)]
    artifact = mopt.build(
        model=str(model), name="wide", data=str(tmp_path / "samples.npz"), target=target, out=tmp_path / "wide.mopt",
        store=Store(tmp_path / "cache"),
        search={"max_batch": 8, "candidates": ["onnxruntime-cuda-*"]}, traffic={"rate": 500},
    )  # fmt: skip
    manifest = artifact.manifest
    assert manifest.runtime == "onnxruntime_gpu"
    assert manifest.winner.evidence["device"]["name"] == devices()[0].name
    assert manifest.winner.profile.batches[0].ratio.low > 1, "weights that a CPU has to read from its memory"
    assert [layout.instances for layout in manifest.serving_profile.layouts] == [1, 2, 4]
    assert manifest.serving_profile.operators == ()
    assert manifest.batching.predicted_p99_ms > 0
    assert "KIND_GPU" in (artifact.folder / "serving/triton/wide/config.pbtxt").read_text()
    assert verify(artifact.folder).ok


@pytest.mark.slow
@pytest.mark.skipif(bool(devices()), reason="there is a GPU")
def test_a_gpu_that_only_tensorrt_itself_builds_for_is_refused_before_any_work(tmp_path):
    small = digits(tmp_path)
    with pytest.raises(UserError, match=r"built by TensorRT on the GPU itself.*9\.0"):
        mopt.build(model=str(small.model), data=str(small.data), target="h100", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_engine_of_a_frozen_recipe_differs_in_its_fields_alone(texts):
    one = engine_pass(ADA, Engine(), TEXT, texts, 4)
    assert one.key()["fields"]["profiles"] == [[{"name": "ids", "least": [1, 5], "best": [4, 9], "most": [4, 30]}]]
    assert dataclasses.replace(one, level=5).key() != one.key()
