import http.server
import json
import os
import re
import subprocess
import threading

import numpy as np
import pytest

from mopt.artifacts.serving.vertex import Vertex
from mopt.loadgen.protocols import ask, encode
from mopt.system.environments import find_environment
from tests.artifacts.serving.services import feed, missing, serve
from tests.manifests import HOSTILE, hostile, manifest, signature

OPENVINO = {"runtime": "openvino", "format": "openvino", "runtime_fields": {"threads": 2, "precision": "f32"}}
GOLDEN = [{"images": np.zeros((1, 3, 2, 2), np.float32)}]
SMALL = signature(inputs=(signature().inputs[0].model_copy(update={"shape": ("batch", 3, 2, 2)}),))
GCLOUD = """#!/bin/sh
[ "$1" = auth ] && echo token || printf '%s\\n' "$*" >> "$CALLS"
"""


@pytest.fixture
def write(tmp_path):
    """Write the folder; return it with a reader of its JSON."""

    def into(record, golden=()):
        source, folder = tmp_path / "model", tmp_path / "vertex"
        source.mkdir()
        for name in ("model.onnx", "model.xml", "model.bin"):
            (source / name).write_bytes(name.encode())
        folder.mkdir()
        Vertex().write(folder, manifest=record, model_folder=source, golden=golden)
        return folder, lambda name: json.loads((folder / name).read_text())

    return into


def batching(**changes):
    return manifest().batching.model_copy(update=changes)


def test_triton_is_started_on_the_repository(write):
    folder, read = write(manifest(signature=SMALL), GOLDEN)
    container = read("upload-model.json")["model"]["containerSpec"]
    assert container["args"][0] == "tritonserver"
    assert "--vertex-ai-default-model=resnet50" in container["args"]
    assert (folder / "models" / "resnet50" / "config.pbtxt").is_file()
    assert "inputs" in read("request.json")
    assert not (folder / "Dockerfile").exists()


def test_else_the_image_has_googles_server(write):
    folder, read = write(manifest(signature=SMALL, **OPENVINO), GOLDEN)
    assert "args" not in read("upload-model.json")["model"]["containerSpec"]
    text = (folder / "Dockerfile").read_text()
    assert "VERTEX_CPR_WEB_CONCURRENCY=1" in text
    copied = next(line for line in text.splitlines() if line.startswith("COPY"))
    assert all((folder / name).is_file() for name in copied.split()[1:-1])
    assert read("request.json") == {"instances": [{"images": GOLDEN[0]["images"][0].tolist()}]}


def test_it_is_scaled_by_what_a_replica_holds_in_a_minute(write):
    _, read = write(manifest(batching=batching(replicas=3, spare_replicas=1, peak_qps=150.0)))
    resources = read("deploy-model.json")["deployedModel"]["dedicatedResources"]
    assert (resources["minReplicaCount"], resources["maxReplicaCount"]) == (2, 6)
    (metric,) = resources["autoscalingMetricSpecs"]
    assert metric == {"metricName": "aiplatform.googleapis.com/prediction/online/request_count", "target": 6000}


def test_without_a_traffic_nothing_is_scaled(write):
    _, read = write(manifest(batching=batching(replicas=2, rate=None, utilization=None, peak_qps=None)))
    resources = read("deploy-model.json")["deployedModel"]["dedicatedResources"]
    assert (resources["minReplicaCount"], resources["maxReplicaCount"]) == (2, 2)
    assert "autoscalingMetricSpecs" not in resources


def test_a_canary_gets_a_part_beside_the_model_that_is_live(write):
    _, read = write(manifest())
    assert read("deploy-model-canary.json")["trafficSplit"] == {"0": 10, "MOPT_LIVE_ID": 90}
    assert read("deploy-model.json")["trafficSplit"] == {"0": 100}
    assert read("traffic-split.json") == {"trafficSplit": {"MOPT_NEW_ID": 100}}


@pytest.mark.parametrize(("target", "machine"), [("gcp-c3-highcpu-8", "c3-highcpu-8"), ("cpu", "MOPT_MACHINE_TYPE")])
def test_the_machine_is_the_target_or_is_to_be_filled_in(target, machine, write):
    folder, read = write(manifest(target={"name": target}))
    assert read("deploy-model.json")["deployedModel"]["dedicatedResources"]["machineSpec"]["machineType"] == machine
    assert ("export MACHINE_TYPE" in (folder / "README.md").read_text()) == (machine == "MOPT_MACHINE_TYPE")


class Api(http.server.BaseHTTPRequestHandler):
    """Answers each request with an operation that is done when it is asked for again."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        self._answer({"name": f"projects/1/locations/r/operations/{len(self.server.seen)}", "metadata": {"name": "other"}})

    def do_GET(self):
        self.server.waited.append(self.path)
        failed = {"error": {"code": 3}} if self.server.fails else {"response": {"name": "x"}}
        self._answer({"name": self.path[1:], "done": True, **failed})

    def _answer(self, content):
        text = json.dumps(content, indent=2).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def api():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.seen, server.waited, server.fails = [], [], False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def deploy(folder, api, tmp_path, **variables):
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "gcloud").write_text(GCLOUD)
    (programs / "gcloud").chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "PAUSE": "0.1", "no_proxy": "*",
        "API": f"http://127.0.0.1:{api.server_port}", "PROJECT": "p", "REGION": "r", "IMAGE": "i:1", "ARTIFACT_URI": "gs://b/a&b",
        **variables,
    }  # fmt: skip
    return subprocess.run(["sh", folder / "deploy.sh"], env=environment, capture_output=True, text=True, timeout=60)


def test_the_script_uploads_makes_the_endpoint_and_deploys_one_after_the_other(write, api, tmp_path):
    folder, _ = write(manifest(target={"name": "gcp-c3-highcpu-8"}))
    done = deploy(folder, api, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path for path, *_ in api.seen] == [
        "/projects/p/locations/r/models:upload",
        "/projects/p/locations/r/endpoints?endpointId=resnet50",
        "/projects/p/locations/r/endpoints/resnet50:deployModel",
    ]
    assert api.waited == [f"/projects/1/locations/r/operations/{index}" for index in (1, 2, 3)]
    assert {token for _, token, _ in api.seen} == {"Bearer token"}
    upload, _, deployed = (body for *_, body in api.seen)
    assert upload["model"]["artifactUri"] == "gs://b/a&b"
    assert deployed["deployedModel"]["model"] == f"projects/p/locations/r/models/{upload['modelId']}"
    assert "MOPT_" not in json.dumps(api.seen)
    assert (tmp_path / "calls").read_text() == "storage rsync --recursive models gs://b/a&b\n"


def test_with_a_live_model_it_becomes_its_canary(write, api, tmp_path):
    folder, _ = write(manifest(target={"name": "cpu"}))
    done = deploy(folder, api, tmp_path, LIVE_ID="42", MACHINE_TYPE="n2-standard-4")
    assert done.returncode == 0, done.stderr
    path, _, body = api.seen[-1]
    assert path.endswith("/endpoints/resnet50:deployModel")
    assert body["trafficSplit"] == {"0": 10, "42": 90}
    assert body["deployedModel"]["dedicatedResources"]["machineSpec"]["machineType"] == "n2-standard-4"
    assert len(api.seen) == 2


def test_an_operation_that_fails_ends_it(write, api, tmp_path):
    folder, _ = write(manifest(target={"name": "gcp-c3-highcpu-8"}))
    api.fails = True
    assert deploy(folder, api, tmp_path).returncode != 0
    assert len(api.seen) == 1


def test_without_its_values_it_does_nothing(write, api, tmp_path):
    folder, _ = write(manifest(target={"name": "cpu"}))
    done = deploy(folder, api, tmp_path)
    assert done.returncode != 0
    assert "MACHINE_TYPE" in done.stderr
    assert api.seen == []


@pytest.mark.parametrize("name", [HOSTILE, "$(id)", "`id`", "50 layers", "日本"])
def test_hostile_names_reach_no_shell(name, write):
    folder, read = write(hostile().model_copy(update={"name": name}))
    text = (folder / "deploy.sh").read_text()
    assert not re.search(r"alert\(|\$\(id|`", text)
    assert subprocess.run(["sh", "-n", folder / "deploy.sh"]).returncode == 0
    assert re.fullmatch("[a-z](-?[a-z0-9]){0,62}", read("upload-model.json")["modelId"])


@pytest.mark.servers
@pytest.mark.parametrize("record", [manifest(), manifest(**OPENVINO), hostile()], ids=["triton", "python", "hostile"])
def test_googles_types_know_all_that_is_sent(record, write):
    if (environment := find_environment("vertex")) is None:
        pytest.skip("mopt tools install vertex")
    folder, _ = write(record)
    (proof,) = Vertex().check(folder, manifest=record, environment=environment)
    assert proof.state == "proven", proof.detail


@pytest.mark.servers
@pytest.mark.skipif(bool(missing("vertex") or missing("triton")), reason="mopt tools install vertex triton")
def test_tritons_frontend_for_vertex_answers_as_the_runtime(tmp_path):
    with serve("vertex", "onnxruntime", tmp_path) as service:
        assert service.endpoint.path == "/predict"
        feeds = [feed(seed) for seed in range(4)]
        for sent, request in zip(feeds, encode(service.endpoint, feeds), strict=True):
            answer = ask(service.endpoint, request)
            for name, value in service.expected(sent).items():
                np.testing.assert_allclose(answer[name].reshape(value.shape), value, rtol=1e-6, atol=1e-6)
