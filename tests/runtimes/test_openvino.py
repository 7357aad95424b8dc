import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from mopt.model.files import Model
from mopt.passes.build_openvino import BuildOpenvino
from mopt.profiles.machine import detect
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.openvino import OpenVINO

pytest.importorskip("openvino", reason="needs mopt[openvino]")

TEXT = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 3, 8, 8] image) => (float[batch, 4, 6, 6] y, float[batch, 4, 6, 6] z)
<float[4, 3, 3, 3] w>
{
  y = Conv(image, w)
  z = Relu(y)
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("shapes", ["dynamic", "static"])
def test_runs_in_a_child_with_the_names_of_the_onnx_model(tmp_path, shapes):
    graph = ir.from_onnx_text(
        TEXT.replace("<float[4, 3, 3, 3] w>", "<float[4, 3, 3, 3] w = {" + ", ".join(["0.5"] * 108) + "}>")
    )
    source, target = tmp_path / "onnx", tmp_path / "openvino"
    source.mkdir()
    target.mkdir()
    ir.save(graph, source / "model.onnx")
    BuildOpenvino().apply(Model.at("onnx", source), target)
    with SessionProcess(OpenVINO(threads=1, shapes=shapes), Model.at("openvino", target)) as session:
        outputs = session.run({"image": np.ones((2, 3, 8, 8), np.float32)})
        assert set(outputs) == {"y", "z"}
        assert np.allclose(outputs["y"], 13.5)
        assert session.run({"image": np.ones((1, 3, 8, 8), np.float32)})["z"].shape == (1, 4, 6, 6)
        inputs, _ = session.specs()
        assert str(inputs[0]) == "image: float32[?, 3, 8, 8]"
        assert session.evidence()["f32"] == {"Convolution": 1}


def small(tmp_path):
    """A convolution with weights that BF16 cannot hold."""
    weights = ", ".join(map(str, np.random.default_rng(0).standard_normal(108).round(5)))
    graph = ir.from_onnx_text(TEXT.replace("<float[4, 3, 3, 3] w>", f"<float[4, 3, 3, 3] w = {{{weights}}}>"))
    source, target = tmp_path / "onnx", tmp_path / "openvino"
    source.mkdir()
    target.mkdir()
    ir.save(graph, source / "model.onnx")
    BuildOpenvino().apply(Model.at("onnx", source), target)
    return Model.at("openvino", target)


@pytest.mark.slow
@pytest.mark.parametrize("shapes", ["dynamic", "static"])
def test_without_a_hint_it_computes_in_what_the_cpu_has_and_says_so(tmp_path, shapes):
    """BF16 where the CPU has it, FP32 elsewhere: OpenVINO's own word, and its own numbers."""
    model = small(tmp_path)
    feed = {"image": np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32)}
    isa = detect().isa
    bfloat16 = bool({"avx512_bf16", "amx_bf16"} & set(isa))
    outputs, reported = {}, {}
    for precision in ("f32", "default"):
        with SessionProcess(OpenVINO(threads=2, precision=precision, shapes=shapes), model) as session:
            outputs[precision] = session.run(feed)["y"]
            reported[precision] = session.evidence()
    assert reported["f32"]["precision"] == "fp32"
    assert (reported["default"]["threads"], reported["default"]["streams"]) == (2, 1)
    resolved = OpenVINO(threads=2, precision="default").resolved(isa)
    if "asimd" in isa:
        pytest.skip("what OpenVINO picks on ARM is not known beforehand")
    assert resolved.precision == ("bf16" if bfloat16 else "f32")
    assert reported["default"]["precision"] == {"bf16": "bf16", "f32": "fp32"}[resolved.precision]
    difference = np.abs(outputs["default"] - outputs["f32"]).max() / np.abs(outputs["f32"]).max()
    assert bool(difference > 1e-4) is bfloat16


def test_only_a_precision_that_is_left_open_is_resolved():
    asked = OpenVINO(threads=1, precision="f32")
    left = OpenVINO(threads=1, precision="default")
    assert asked.resolved(("avx512_bf16",)) == asked
    assert left.resolved(("avx2",)).precision == "f32"
    assert left.resolved(("amx_bf16",)).precision == "bf16"
    assert left.resolved(("asimd", "bf16")) == left


MEET = """
import sys, threading
import numpy as np
from pathlib import Path
from mopt.runtimes.openvino import OpenVINO
sessions = [OpenVINO(threads=1).open(Path(sys.argv[1])) for _ in range(4)]
barrier = threading.Barrier(len(sessions))
def infer(session):
    feed = {"image": np.ones((1, 3, 8, 8), np.float32)}
    barrier.wait()
    session.run(feed)
threads = [threading.Thread(target=infer, args=(session,), daemon=True) for session in sessions]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(5)
print("stuck" if any(thread.is_alive() for thread in threads) else "answered", flush=True)
import os
os._exit(0)
"""
"""The first inferences of a process, on four threads at once."""
PROCESSES = 8
"""Without a first conversion on one thread some never answer: the deadlock holds Python's lock, so nothing in them ends."""


@pytest.mark.slow
def test_first_inferences_on_several_threads_at_once_do_not_wait_for_each_other(tmp_path):
    graph = ir.from_onnx_text(
        TEXT.replace("<float[4, 3, 3, 3] w>", "<float[4, 3, 3, 3] w = {" + ", ".join(["0.5"] * 108) + "}>")
    )
    (tmp_path / "onnx").mkdir()
    (tmp_path / "openvino").mkdir()
    ir.save(graph, tmp_path / "onnx" / "model.onnx")
    BuildOpenvino().apply(Model.at("onnx", tmp_path / "onnx"), tmp_path / "openvino")
    command = [sys.executable, "-c", MEET, str(Model.at("openvino", tmp_path / "openvino").file)]
    answers = [subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout for _ in range(PROCESSES)]
    assert [answer.split() for answer in answers] == [["answered"]] * PROCESSES


@pytest.mark.slow
@pytest.mark.parametrize("shapes", ["dynamic", "static"])
def test_a_bound_call_answers_what_the_session_answers_at_every_shape(tmp_path, shapes):
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[n, 4] x) => (float[n, 4] y) { y = Softmax(x) }'
    ir.save(ir.from_onnx_text(text), tmp_path / "model.onnx")
    (tmp_path / "out").mkdir()
    BuildOpenvino().apply(Model.at("onnx", tmp_path), tmp_path / "out")
    session = OpenVINO(threads=1, shapes=shapes).open(Model.at("openvino", tmp_path / "out").file)
    feeds = [{"x": np.arange(4 * count, dtype=np.float32).reshape(count, 4)} for count in (1, 3)]
    calls = [session.bind(feed) for feed in feeds]
    for feed, call in zip(feeds, calls, strict=True):
        (bound,) = call().values()
        assert np.array_equal(bound, session.run(feed)["y"])


@pytest.mark.parametrize("threads", [1, 2])
def test_what_the_graph_cannot_compute_is_an_error_and_not_the_last_answer(tmp_path, threads):
    """With one thread OpenVINO's own ``infer`` says nothing, and answers as before."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    threes (float[count] x) => (float[rows, 3] y) <int64[2] shape = {-1, 3}> { y = Reshape (x, shape) }
    """
    path = tmp_path / "model.onnx"
    ir.save(ir.from_onnx_text(text), path)
    session = OpenVINO(threads=threads).open(path)
    assert session.run({"x": np.arange(6, dtype=np.float32)})["y"].shape == (2, 3)
    with pytest.raises(Exception, match="Reshape"):
        session.run({"x": np.arange(7, dtype=np.float32)})
    assert session.run({"x": np.arange(9, dtype=np.float32)})["y"].shape == (3, 3)
