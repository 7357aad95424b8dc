"""Every OpenVINO candidate in NVIDIA's own server: it computes in the precision that was judged, and answers the same."""

import json

import numpy as np
import pytest
import tritonclient.grpc

from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving.triton import Triton
from mopt.model.samples import Sample, Samples, write_samples
from mopt.model.signature import Signature, TensorSpec
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.openvino import OpenVINO
from mopt.search.candidates import SpaceInputs, graph_traits, search_space
from mopt.search.compile import compile_passes
from mopt.system.digests import describe_fields
from mopt.system.store import Store
from tests import servers
from tests.manifests import manifest
from tests.passes.graphs import model, weights

MISSING = servers.missing("triton")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[batch, 3, 12, 12] image) => (float[batch, 6] scores) {
    a = Conv <pads = [1, 1, 1, 1]> (image, w0) b = Relu (a) c = Conv (b, w1) d = Relu (c)
    e = GlobalAveragePool (d) f = Flatten (e) scores = Gemm (f, w2)
}
"""
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, 12, 12)),),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=("batch", 6)),),
    batch_axes={"image": 0, "scores": 0},
)
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "int8+fp32": 3e-2, "int8+bf16": 3e-2}
"""Share of the largest answer: kernels for another batch size add up in another order, and round in their precision."""
PATTERNS = ("openvino-int8", "openvino-int8-static", "openvino-[!i]*")
FEEDS = [{"image": np.random.default_rng(seed).standard_normal((1, 3, 12, 12), np.float32)} for seed in range(24)]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The judged answers with the precision that OpenVINO reported, the same candidates in FP32, and what the server made."""
    folder = tmp_path_factory.mktemp("served")
    source = model(folder / "onnx", NETWORK, weights(w0=(16, 3, 3, 3), w1=(16, 16, 3, 3), w2=(16, 6)))
    (folder / "samples").mkdir()
    write_samples(folder / "samples", (Sample(feed) for feed in FEEDS))
    inputs = SpaceInputs(
        graph_traits(source), load_target("cpu", detect()), Samples.at(folder / "samples"), 1, signature=SIGNATURE
    )
    store, judged, repository = Store(folder / "cache"), {}, folder / "repository"
    repository.mkdir()
    for candidate in search_space(inputs, PATTERNS, "latency", serving=[Triton()]):
        if candidate.refused is not None:
            continue
        compiled = compile_passes(candidate.passes, source, store).model
        judged[model_name(candidate.name)] = (*_run(candidate.runtime, compiled), _run(OpenVINO(threads=1), compiled)[0])
        record = manifest(
            name=candidate.name, format="openvino", runtime="openvino", runtime_fields=describe_fields(candidate.runtime),
            signature=SIGNATURE, machine=detect(),
        )  # fmt: skip
        Triton().write(repository, manifest=record, model_folder=compiled.folder, golden=FEEDS[:1])
    (folder / "reports").mkdir()
    with servers.triton(repository, backend="openvino", reports=folder / "reports") as ports:
        answers = {name: [_ask(ports.grpc, name, feed) for feed in FEEDS[:4]] for name in judged}
    reported = {name: json.loads((folder / "reports" / f"{name}.json").read_text()) for name in judged}
    return judged, answers, reported


def _run(runtime, compiled):
    with SessionProcess(runtime, compiled) as session:
        return [session.run(feed)["scores"] for feed in FEEDS[:4]], session.evidence()


def _ask(port, name, feed):
    tensor = tritonclient.grpc.InferInput("image", list(feed["image"].shape), "FP32")
    tensor.set_data_from_numpy(feed["image"])
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        return client.infer(name, [tensor]).as_numpy("scores")


def test_the_server_computes_in_the_precision_that_was_judged(served):
    judged, _, reported = served
    expected = "bf16" if OpenVINO(threads=1, precision="default").resolved(detect().isa).precision == "bf16" else "fp32"
    assert {"openvino-int8", "openvino-bf16" if expected == "bf16" else "openvino-fp32"} <= set(judged)
    for name, (_, evidence, _) in judged.items():
        told = {key: reported[name][key] for key in ("precision", "threads", "streams")}
        assert told == {"precision": expected, "threads": 1, "streams": 1}, name
        assert evidence["precision"].split("+")[-1] == expected, name


def test_the_answers_are_those_that_were_judged(served):
    judged, answers, _ = served
    for name, (expected, evidence, _) in judged.items():
        top = float(np.abs(expected).max())
        assert np.abs(np.array(answers[name]) - expected).max() <= TOLERANCE[evidence["precision"]] * top, name


def test_fp32_is_another_model_where_the_server_takes_bf16(served):
    """What this is about: the same file with the hint of FP32 gives other answers, and is not what is served."""
    judged, answers, reported = served
    for name, (expected, _, in_float) in judged.items():
        to_judged, to_float = (float(np.abs(np.array(answers[name]) - values).mean()) for values in (expected, in_float))
        if reported[name]["precision"] == "fp32":
            assert to_float == to_judged, name
        elif "int8" not in name:
            assert to_judged < to_float / 2, name
