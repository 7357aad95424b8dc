"""The proof that a server serves what was judged: on a queue of our own, and on the real Triton."""

import json

import numpy as np
import pytest

from mopt.artifacts.artifact import Artifact
from mopt.errors import UserError
from mopt.loadgen.protocols import connect
from mopt.progress import Silent
from mopt.system.environments import find_environment
from mopt.workflows import verify_server as verify_server_module
from mopt.workflows.package import package
from mopt.workflows.verify_server import verify_server
from tests import servers
from tests.workflows import artifacts


@pytest.fixture
def artifact(tmp_path):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    return tmp_path / "a"


def states(verification):
    return {proof.part: proof.state for proof in verification.proofs}


@pytest.mark.slow
def test_a_running_server_is_looked_at_from_outside(artifact):
    with servers.Queue() as server:
        verification = verify_server(artifact, f"http://127.0.0.1:{server.port}")
    assert verification.ok, verification.proofs
    assert states(verification) == {
        "answers over kserve-http": "proven",
        "precision, by its answers": "proven",
        "precision and threads, as the runtime reports": "not proven",
        "bad requests": "proven",
        "batches": "not proven",
        "load": "proven",
    }
    assert verification.load.requests >= 100
    assert verification.seconds.keys() == {"first request", "request"}


def test_a_server_of_something_else_fails_and_is_asked_nothing_more(tmp_path):
    golden = artifacts.answers(artifacts.feeds())
    golden[1] = {"y": np.float32([[9, 9]]), "same": np.float32([[1, -1]])}
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"), golden_outputs=golden)
    with servers.Queue() as server:
        verification = verify_server(tmp_path / "a", f"http://127.0.0.1:{server.port}")
    assert not verification.ok
    (proof,) = verification.proofs
    assert proof.detail == "sample 1: y differs by 11, allowed 1e-05"


def test_the_endpoint_that_is_asked_further_is_the_one_that_answered_right(artifact, monkeypatch):
    right = verify_server_module._replay
    with servers.Queue() as server, servers.Queue() as other:
        endpoints = [connect(f"http://127.0.0.1:{each.port}") for each in (server, other)]

        def replay(endpoint, built, golden):
            answers, proof, seconds = right(endpoint, built, golden)
            return (
                ([], proof.model_copy(update={"state": "failed"}), {})
                if endpoint is endpoints[0]
                else (answers, proof, seconds)
            )

        monkeypatch.setattr(verify_server_module, "_replay", replay)
        verifier = verify_server_module._Verifier(Artifact.read(artifact), Silent())
        proofs, load, seconds = verifier._ask(endpoints, None)
    assert ([proof.state for proof in proofs], load, seconds) == (["failed", "proven"], None, {})


def test_mistakes_are_told(artifact):
    with pytest.raises(UserError, match="no server answers"):
        verify_server(artifact, "http://127.0.0.1:9")
    with pytest.raises(UserError, match="has no files for triton"):
        verify_server(artifact, "triton")
    with pytest.raises(UserError, match="unknown serving system: trion"):
        verify_server(artifact, "trion")
    (artifact / "model" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(UserError, match="is not what was built"):
        verify_server(artifact, "triton")


def test_a_system_that_is_not_installed_is_not_called_verified(artifact, tmp_path, monkeypatch):
    package(artifact, ["triton"])
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "tools"))
    verification = verify_server(artifact, "triton")
    assert not verification.started
    (proof,) = [proof for proof in verification.proofs if proof.part == "server"]
    assert proof.state == "not proven"
    assert "mopt tools install triton" in proof.detail


TRITON = find_environment("triton")
triton = pytest.mark.skipif(TRITON is None, reason="mopt tools install triton")


@pytest.mark.slow
@triton
def test_the_real_triton_serves_what_was_judged(artifact):
    package(artifact, ["triton"])
    verification = verify_server(artifact, "triton")
    assert verification.ok, verification.proofs
    assert verification.started
    proven = states(verification)
    assert proven["answers over kserve-http"] == proven["threads, as the runtime reports"] == proven["bad requests"] == "proven"
    assert proven["server"] == "not proven"  # its backends in C++ cannot be installed, and it says so


@pytest.mark.slow
@triton
def test_files_that_serve_something_else_are_caught(artifact):
    """Somebody sets another number of threads in the files, and makes the manifest fit."""
    from mopt.system.digests import file_digest

    package(artifact, ["triton"])
    config = artifact / "serving" / "triton" / "double" / "config.pbtxt"
    text = config.read_text()
    config.write_text(_with_threads(text, "7"))
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"]["serving/triton/double/config.pbtxt"] = file_digest(config)
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    verification = verify_server(artifact, "triton")
    assert not verification.ok
    assert states(verification)["threads, as the runtime reports"] == "failed"


def _with_threads(config, count):
    import re

    changed = re.sub(r'(key: "intra_op_thread_count" value \{ string_value: )"\d+"', rf'\1"{count}"', config)
    assert changed != config
    return changed
