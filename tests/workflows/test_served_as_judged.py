import json

import numpy as np
import pytest

from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import Launch
from mopt.profiles.machine import detect
from mopt.records.serving import Batching
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.openvino import OpenVINO
from mopt.workflows._served_as_judged import precision_by_answers, reported_by_runtime
from tests.manifests import manifest
from tests.passes.graphs import model, weights
from tests.workflows import artifacts

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[batch, 2] x) => (float[batch, 2] y) { a = MatMul (x, w0) b = Relu (a) y = MatMul (b, w1) }
"""
BF16 = {"avx512_bf16", "amx_bf16"} & set(detect().isa)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small network judged in FP32 of OpenVINO, which reads ONNX as it is."""
    folder = tmp_path_factory.mktemp("judged")
    source = model(folder / "model", NETWORK, weights(w0=(2, 64), w1=(64, 2)))
    outputs = tuple(spec for spec in artifacts.signature().outputs if spec.name == "y")
    artifacts.write(
        folder / "a", source, golden_outputs=[{"y": feed["x"]} for feed in artifacts.feeds()],
        signature=artifacts.signature().model_copy(update={"outputs": outputs}), runtime="openvino",
    )  # fmt: skip
    return Artifact.read(folder / "a")


def answered(built, precision):
    feeds = [{"x": np.random.default_rng(seed).standard_normal((1, 2), np.float32)} for seed in range(4)]
    session = SessionProcess(OpenVINO(threads=1, precision=precision), built.model)
    with session:
        return feeds, [session.run(feed) for feed in feeds]


@pytest.mark.slow
@pytest.mark.skipif(not BF16, reason="without BF16 arithmetic OpenVINO computes the same for both")
@pytest.mark.parametrize(("judged", "served"), [("f32", "f32"), ("f32", "bf16"), ("bf16", "bf16"), ("bf16", "f32")])
def test_the_answers_tell_in_which_precision_they_were_computed(built, judged, served):
    feeds, answers = answered(built, served)
    proof = precision_by_answers(built, OpenVINO(threads=1, precision=judged), feeds, answers)
    assert proof.state == ("proven" if judged == served else "failed"), proof.detail


@pytest.mark.slow
def test_a_runtime_without_precisions_has_nothing_to_tell_apart(built):
    feeds, answers = answered(built, "f32")
    proof = precision_by_answers(built, OnnxRuntime(threads=1), feeds, answers)
    assert proof.state == "proven"
    assert "knows no other precision" in proof.detail


def reported(built, tmp_path, report, **changes):
    winner = built.manifest.winner.model_copy(update={"effective_precision": "int8+bf16"})
    batching = Batching(**{**trial_batching(), **changes})
    trials = tuple(winner if entry.name == winner.name else entry for entry in built.manifest.trials)
    judged = built.manifest.model_copy(update={"trials": trials, "batching": batching, "versions": {"openvino": "2026.4.1"}})
    path = tmp_path / "report"
    path.write_text(json.dumps(report))
    launch = Launch(command=[], ready=[], url="", protocol="", model="", report=path)
    return {proof.part: proof.state for proof in reported_by_runtime(Artifact(built.folder, judged), launch)}


def trial_batching():
    return manifest().batching.model_dump() | {"threads": 2, "instances": 3}


def test_what_the_runtime_reports_is_compared_with_what_was_judged(built, tmp_path):
    report = {"precision": "bf16", "threads": 6, "streams": 3, "versions": {"openvino": "2026.4.1"}}
    assert set(reported(built, tmp_path, report).values()) == {"proven"}
    assert reported(built, tmp_path, {**report, "precision": "fp32"})["precision, as the runtime reports"] == "failed"
    assert reported(built, tmp_path, {**report, "threads": 3})["threads, as the runtime reports"] == "failed"
    other = reported(built, tmp_path, {**report, "versions": {"openvino": "2025.4.0"}})
    assert other["version of openvino"] == "not proven"


def test_without_a_report_nothing_is_proven(built):
    (proof,) = reported_by_runtime(built, None)
    assert proof.state == "not proven"
