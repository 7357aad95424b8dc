"""What is written for OpenVINO Model Server, and what OpenVINO makes of its plugin_config; the server is in no registry."""

import json
from pathlib import Path

import numpy as np
import pytest

from mopt.artifacts.serving._base import Ports, make_system
from mopt.artifacts.serving._files.plugin_config_check import opened
from mopt.artifacts.serving.openvino_model_server import OpenvinoModelServer
from mopt.errors import NotApplicableError, UserError
from mopt.model.files import Model
from mopt.model.signature import Signature, TensorSpec
from mopt.profiles.machine import detect
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.openvino import OpenVINO
from mopt.system.digests import describe_fields
from mopt.system.environments import Environment
from tests.manifests import HOSTILE, manifest

BF16 = OpenVINO(threads=1, precision="default").resolved(detect().isa).precision == "bf16"


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


PAIR = Signature(
    inputs=(spec("x", "batch", 6), spec("z", "batch", 6)), outputs=(spec("y", "batch", 4),), batch_axes={"x": 0, "z": 0, "y": 0}
)
VOICE = Signature(
    inputs=(spec("x", "batch", 8), spec("state", 2, "batch", 3)),
    outputs=(spec("y", "batch", 8),),
    batch_axes={"x": 0, "state": 1, "y": 0},
)
WORDS = Signature(inputs=(spec("ids", "batch", "length"),), outputs=(spec("y", "batch", 2),), batch_axes={"ids": 0, "y": 0})


def record(signature=PAIR, runtime=None, effective="", **changes):
    runtime = runtime or OpenVINO(threads=2)
    made = manifest(
        signature=signature,
        format="openvino",
        runtime="openvino",
        runtime_fields=describe_fields(runtime),
        machine=detect(),
        **changes,
    )
    trials = [
        trial.model_copy(update={"effective_precision": effective}) if trial.name == made.chosen else trial
        for trial in made.trials
    ]
    return made.model_copy(update={"trials": tuple(trials)})


def batching(**changes):
    return manifest().batching.model_copy(update=changes)


@pytest.fixture
def write(tmp_path):
    def written(made, golden=(), model=None, system=None):
        if model is None:
            model = tmp_path / "model"
            model.mkdir()
            (model / "model.xml").write_text("<net/>")
            (model / "model.bin").write_bytes(b"weights")
        folder = tmp_path / "ovms"
        folder.mkdir()
        (system or OpenvinoModelServer()).write(folder, manifest=made, model_folder=model, golden=golden)
        whole = json.loads((folder / "config.json").read_text())
        (entry,) = whole["model_config_list"]
        return entry["config"], folder

    return written


def test_the_server_is_told_all_that_was_judged(write):
    config, folder = write(record(runtime=OpenVINO(threads=2, precision="f32")))
    assert config == {
        "name": "resnet50", "base_path": "resnet50", "target_device": "CPU", "nireq": 1,
        "plugin_config": {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32"},
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "resnet50" / "1").iterdir()) == ["model.bin", "model.xml"]
    assert OpenvinoModelServer().check(folder, manifest=record(), environment=None)[0].state == "proven"


def test_instances_are_streams_with_the_threads_of_all(write):
    config, _ = write(record(batching=batching(instances=3, threads=2)))
    assert (config["nireq"], config["plugin_config"]["NUM_STREAMS"], config["plugin_config"]["INFERENCE_NUM_THREADS"]) == (
        3,
        "3",
        6,
    )


def test_a_precision_that_was_left_to_openvino_stays_so_and_is_told(write):
    config, folder = write(record(runtime=OpenVINO(threads=1, precision="default"), effective="bf16"))
    assert "INFERENCE_PRECISION_HINT" not in config["plugin_config"]
    assert "Judged in what OpenVINO picks by itself" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("signature", "shapes"),
    [(PAIR, {"x": "(1,6)", "z": "(1,6)"}), (VOICE, {"x": "(1,8)", "state": "(2,1,3)"})],
    ids=["rows", "axis"],
)
def test_static_shapes_are_those_of_a_request(write, signature, shapes):
    config, folder = write(record(signature, OpenVINO(threads=1, shapes="static")))
    assert config["shape"] == shapes
    assert "takes a batch of one" in (folder / "README.md").read_text()


def test_many_static_shapes_are_more_than_it_holds(write):
    with pytest.raises(NotApplicableError, match="holds one at a time: ids varies in more than its batch"):
        write(record(WORDS, OpenVINO(threads=1, shapes="static")))


def test_what_openvino_did_not_run_when_it_was_judged_is_not_served(write):
    with pytest.raises(NotApplicableError, match="run a model of onnxruntime with OpenVINO, which was not judged"):
        write(manifest())
    assert "onnxruntime" not in OpenvinoModelServer.settable


def test_it_batches_nothing_and_says_so(write):
    assert OpenvinoModelServer().why_unbatched("openvino", manifest().signature)
    _, folder = write(record())
    assert "puts no requests together" in (folder / "README.md").read_text()


def test_a_release_is_named_in_the_command(write):
    _, folder = write(record(versions={"openvino": "2026.4.1"}), system=make_system("openvino_model_server@2026.2"))
    text = (folder / "README.md").read_text()
    assert "openvino/model_server:2026.2 --config_path /models/config.json" in text
    assert "Judged with OpenVINO 2026.4.1, and the release 2026.2 has OpenVINO 2026.2.0" in text


def test_an_unknown_release():
    with pytest.raises(UserError, match=r"unknown release of openvino_model_server: 2026\.9"):
        make_system("openvino_model_server@2026.9")


def test_hostile_names_stay_text(write):
    one = Signature(inputs=(spec(HOSTILE, "batch", 2),), outputs=(spec("y", "batch", 2),), batch_axes={HOSTILE: 0, "y": 0})
    made = record(one, OpenVINO(threads=1, shapes="static"), name=f"../../{HOSTILE}")
    config, folder = write(made, golden=[{HOSTILE: np.ones((1, 2), np.float32)}])
    assert set(config["shape"]) == {HOSTILE}
    assert (folder / config["name"] / "1" / "model.xml").is_file()
    assert json.loads((folder / "request.json").read_text())["inputs"][0]["name"] == HOSTILE


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(plugin_configs={}),
        lambda config: config.update(nireq="2"),
        lambda config: config["plugin_config"].update(NUM_STREAMS=["1"]),
        lambda config: config.pop("name"),
    ],
    ids=["unknown", "type", "value", "name"],
)
def test_what_the_servers_schema_refuses_is_found(write, change):
    config, folder = write(record())
    change(config)
    (folder / "config.json").write_text(json.dumps({"model_config_list": [{"config": config}]}))
    assert OpenvinoModelServer().check(folder, manifest=record(), environment=None)[0].state == "failed"


def test_without_its_program_it_says_why_it_does_not_run(write, tmp_path, monkeypatch):
    _, folder = write(record())
    monkeypatch.setenv("PATH", "")
    arguments = {"manifest": record(), "environment": Environment("", Path()), "ports": Ports(1, 2, 3), "scratch": tmp_path}
    with pytest.raises(NotApplicableError, match="in no registry of packages"):
        OpenvinoModelServer().launch(folder, **arguments)
    (tmp_path / "ovms.d").mkdir()
    (tmp_path / "ovms.d" / "ovms").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "ovms.d"))
    launch = OpenvinoModelServer().launch(folder, **arguments)
    assert launch.command[0] == str(tmp_path / "ovms.d" / "ovms")
    assert {"--rest_bind_address", "127.0.0.1"} <= set(launch.command)


# --- what OpenVINO makes of it -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Two inputs, and numbers that differ between FP32 and BF16."""
    import openvino
    import openvino.opset8 as ops

    folder = tmp_path_factory.mktemp("network")
    rng = np.random.default_rng(0)
    x, z = (ops.parameter([-1, 6], np.float32, name=name) for name in "xz")
    hidden = ops.relu(ops.matmul(ops.add(x, z), ops.constant(rng.standard_normal((6, 64), np.float32)), False, False))
    y = ops.matmul(hidden, ops.constant(rng.standard_normal((64, 4), np.float32)), False, False)
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [x, z]), str(folder / "model.xml"), compress_to_fp16=False)
    return folder


RUNTIMES = {
    "fp32": OpenVINO(threads=1, precision="f32"),
    "bf16": OpenVINO(threads=1, precision="bf16"),
    "own": OpenVINO(threads=1, precision="default"),
    "static": OpenVINO(threads=1, precision="f32", shapes="static"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES)
def test_openvino_answers_with_the_written_config_as_it_was_judged(write, network, name):
    runtime = RUNTIMES[name]
    feeds = [{key: np.random.default_rng(seed).standard_normal((1, 6), np.float32) for key in "xz"} for seed in range(4)]
    with SessionProcess(runtime, Model.at("openvino", network)) as session:
        judged = [np.array(session.run(feed)["y"]) for feed in feeds]
        effective = session.evidence()["precision"]
    made = record(runtime=runtime, effective=effective)
    config, folder = write(made, golden=feeds[:1], model=network)
    answers = [np.array(opened(folder, config)(feed)["y"]) for feed in feeds]
    np.testing.assert_array_equal(answers, judged)
    proof = OpenvinoModelServer().check(folder, manifest=made, environment=None)[1]
    assert proof.state == "proven"
    assert f"{effective}, threads 1, streams 1" in proof.detail


@pytest.mark.slow
@pytest.mark.skipif(not BF16, reason="this CPU has no BF16, so that OpenVINO computes in FP32 by itself")
def test_a_planted_difference_of_precision_is_caught(write, network):
    made = record(runtime=OpenVINO(threads=1, precision="f32"), effective="fp32")
    config, folder = write(made, model=network)
    del config["plugin_config"]["INFERENCE_PRECISION_HINT"]
    (folder / "config.json").write_text(json.dumps({"model_config_list": [{"config": config}]}))
    proof = OpenvinoModelServer().check(folder, manifest=made, environment=None)[1]
    assert proof.state == "failed"
    assert "precision bf16, judged with fp32" in proof.detail
