"""TensorFlow's C++ loader, its batch scheduler and TensorFlow Serving's protos on the files that mopt writes."""

import numpy as np
import pytest

from mopt.artifacts import bundle
from mopt.artifacts.serving._savedmodel_loader import parse_configuration
from mopt.artifacts.serving.tf_serving import TfServing
from mopt.errors import CandidateRejectedError
from mopt.model.signature import Signature, TensorSpec
from mopt.passes.build_savedmodel import BuildSavedmodel
from mopt.records.manifest import Golden
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.tensorflow import TensorFlow
from mopt.system.environments import find_environment
from mopt.system.process import run
from mopt.system.store import Store
from mopt.workflows.build import build
from mopt.workflows.verify import verify
from mopt.workflows.verify_server import verify_server
from tests.manifests import manifest
from tests.passes import graphs

ENVIRONMENT = find_environment("tensorflow")
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(ENVIRONMENT is None, reason="needs mopt tools install tensorflow"),
]
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, 16, 16)),),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=("batch", 4)),),
    batch_axes={"image": 0, "scores": 0},
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """An artifact as a build writes it, with two golden samples."""
    folder = tmp_path_factory.mktemp("artifact")
    model, _ = graphs.apply(BuildSavedmodel(), graphs.cnn(folder / "onnx"), folder / "made")
    rng = np.random.default_rng(0)
    inputs = [{"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(2)]
    with SessionProcess(TensorFlow(threads=1), model) as session:
        outputs = [session.run(feed) for feed in inputs]
    record = manifest(
        name="small cnn",
        format="savedmodel",
        runtime="tensorflow",
        runtime_fields={"threads": 1},
        signature=SIGNATURE,
        golden=Golden(count=2, tolerance={"scores": 1e-4}),
    )
    record = bundle.write_artifact(
        folder / "artifact",
        model=model,
        manifest=record,
        golden_inputs=inputs,
        golden_outputs=outputs,
        reports=lambda _: {},
        serving=["tf_serving"],
    )
    return folder / "artifact", record


@pytest.mark.parametrize("make", [graphs.cnn, graphs.transformer], ids=["image", "dynamic-width"])
def test_a_build_for_this_server_ships_what_it_loads(make, tmp_path):
    """Whatever is faster elsewhere; and the proof says that the server itself did not run."""
    source, rng = make(tmp_path / "onnx"), np.random.default_rng(0)
    shape = (3, 16, 16) if make is graphs.cnn else (12, 64)
    name = "image" if make is graphs.cnn else "x"
    np.savez(tmp_path / "samples.npz", **{name: rng.standard_normal((60, *shape)).astype(np.float32)})
    built = build(
        model=str(source.file), data=str(tmp_path / "samples.npz"), serve=["tf_serving"], out=tmp_path / "made.mopt",
        search={"max_batch": 4, "rounds": 5, "effort": "quick"}, store=Store(tmp_path / "cache"),
    )  # fmt: skip
    assert built.manifest.chosen == "tensorflow-fp32"
    assert built.manifest.winner.effective_precision == "fp32"
    assert built.manifest.versions["tensorflow-cpu"] == ENVIRONMENT.version("tensorflow-cpu")
    assert verify(built.folder).ok
    proven = verify_server(built.folder, "tf_serving")
    states = {proof.part: proof.state for proof in proven.proofs}
    assert not proven.started
    assert states.pop("server") == "not proven"
    assert set(states.values()) == {"proven"}, proven.proofs


def check(artifact):
    folder, record = artifact
    proofs = TfServing().check(folder / "serving" / "tf_serving", manifest=record, environment=ENVIRONMENT)
    return {proof.part.partition(",")[0].partition(" by")[0]: proof for proof in proofs}


def test_the_loader_the_protos_the_warm_up_and_the_scheduler_take_them(artifact):
    proofs = check(artifact)
    assert {part: proof.state for part, proof in proofs.items()} == dict.fromkeys(
        ("loaded", "configuration", "warm-up requests", "batches"), "proven"
    ), proofs
    assert "2 golden samples" in proofs["loaded"].detail
    assert "[1, 8]" in proofs["warm-up requests"].detail
    assert "96 requests in batches" in proofs["batches"].detail
    assert '"batch_timeout_micros": 500' in proofs["configuration"].detail


def test_wrong_answers_and_spoilt_files_are_found(artifact):
    folder, record = artifact
    tight = record.model_copy(update={"golden": Golden(count=2, tolerance={"scores": -1.0})})
    assert check((folder, tight))["loaded"].state == "failed"
    other = record.model_copy(update={"batching": record.batching.model_copy(update={"max_batch": 4})})
    assert check((folder, other))["configuration"].state == "failed"


def test_a_field_that_the_server_does_not_know_is_an_error():
    files = {"batching_parameters.txt": "max_batch_sizes { value: 8 }"}
    with pytest.raises(CandidateRejectedError, match="max_batch_sizes"):
        run(parse_configuration, files, python=ENVIRONMENT.python)


def test_a_record_with_another_byte_is_not_read(artifact, tmp_path):
    from mopt.artifacts.serving._savedmodel_loader import run_warmup

    folder, _ = artifact
    source = folder / "serving" / "tf_serving" / "small_cnn" / "1"
    copy = tmp_path / "1"
    (copy / "assets.extra").mkdir(parents=True)
    (copy / "saved_model.pb").write_bytes((source / "saved_model.pb").read_bytes())
    spoilt = bytearray((source / "assets.extra" / "tf_serving_warmup_requests").read_bytes())
    spoilt[100] ^= 1
    (copy / "assets.extra" / "tf_serving_warmup_requests").write_bytes(bytes(spoilt))
    with pytest.raises(CandidateRejectedError, match="corrupted record"):
        run(run_warmup, copy, python=ENVIRONMENT.python)
