import json
import shutil
import subprocess

import numpy as np
import pytest
from ruamel.yaml import YAML

from mopt.artifacts.serving.kserve import Kserve
from mopt.system.environments import find_environment
from tests.manifests import HOSTILE, hostile, manifest, signature

OPENVINO = {"runtime": "openvino", "format": "openvino", "runtime_fields": {"threads": 2, "precision": "f32"}}
GOLDEN = [{"images": np.zeros((1, 3, 2, 2), np.float32)}]
SMALL = signature(inputs=(signature().inputs[0].model_copy(update={"shape": ("batch", 3, 2, 2)}),))


@pytest.fixture
def write(tmp_path):
    """Write the folder; return it with a reader of its YAML."""

    def into(record, golden=()):
        source, folder = tmp_path / "model", tmp_path / "kserve"
        source.mkdir()
        for name in ("model.onnx", "model.xml", "model.bin", "model.engine"):
            (source / name).write_bytes(name.encode())
        folder.mkdir()
        Kserve().write(folder, manifest=record, model_folder=source, golden=golden)

        def read(name):
            return YAML(typ="safe", pure=True).load((folder / name).read_text())

        return folder, read

    return into


def batching(**changes):
    return manifest().batching.model_copy(update=changes)


def test_triton_in_nvidias_image_serves_what_it_runs_as_judged(write):
    folder, read = write(manifest(signature=SMALL), GOLDEN)
    runtime, service = read("service/serving-runtime.yaml"), read("service/inference-service.yaml")
    container = runtime["spec"]["containers"][0]
    assert container["image"].startswith("nvcr.io/nvidia/tritonserver:")
    assert "--model-repository=/mnt/models" in container["args"]
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"] == service["metadata"]["name"] == "resnet50"
    assert model["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"]
    assert (folder / "models" / "resnet50" / "config.pbtxt").is_file()
    assert not (folder / "Dockerfile").exists()
    assert json.loads((folder / "request.json").read_text())["inputs"][0]["name"] == "images"


def test_what_triton_would_run_otherwise_has_an_image_of_its_own(write):
    folder, read = write(manifest(signature=SMALL, **OPENVINO), GOLDEN)
    assert read("service/serving-runtime.yaml")["spec"]["containers"][0]["image"] == "MOPT_IMAGE"
    copied = next(line for line in (folder / "Dockerfile").read_text().splitlines() if line.startswith("COPY"))
    assert all((folder / name).is_file() for name in copied.split()[1:-1])
    assert json.loads((folder / "models" / "served_model.json").read_text())["runtime_fields"] == OPENVINO["runtime_fields"]
    assert "docker build" in (folder / "README.md").read_text()


def test_it_is_scaled_by_the_rate_that_a_replica_holds(write):
    _, read = write(manifest(batching=batching(replicas=3, spare_replicas=1, peak_qps=150.0)))
    predictor = read("service/inference-service.yaml")["spec"]["predictor"]
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("rps", 100)
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 6)
    standard = read("standard/standard.yaml")
    assert standard["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "keda"
    (metric,) = standard["spec"]["predictor"]["autoScaling"]["metrics"]
    assert metric["external"]["target"] == {"type": "Value", "value": "100"}
    assert metric["external"]["metric"]["query"] == 'sum(rate(nv_inference_request_success{model="resnet50"}[1m]))'


def test_below_one_request_a_second_it_is_scaled_by_what_is_under_way(write):
    _, read = write(manifest(batching=batching(replicas=1, peak_qps=0.4)))
    predictor = read("service/inference-service.yaml")["spec"]["predictor"]
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", 1)


def test_without_a_traffic_the_replicas_stay_as_they_are(write):
    _, read = write(manifest(batching=batching(replicas=2, rate=None, utilization=None, peak_qps=None)))
    predictor = read("service/inference-service.yaml")["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 2)
    assert "scaleMetric" not in predictor
    assert "autoScaling" not in read("standard/standard.yaml")["spec"]["predictor"]


def test_cores_memory_and_probes_are_those_that_it_is_to_be_given(write):
    from mopt.artifacts.serving._provisioning import provision

    record = manifest(**OPENVINO)
    _, read = write(record)
    given, container = provision(record), read("service/serving-runtime.yaml")["spec"]["containers"][0]
    mib = given.memory_bytes >> 20
    assert container["resources"]["requests"] == {"cpu": str(given.cores), "memory": f"{mib}Mi"}
    assert container["resources"]["limits"]["cpu"] == str(given.cores + 1)
    assert container["startupProbe"]["failureThreshold"] == given.startup.failure_threshold
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert read("service/inference-service.yaml")["spec"]["predictor"]["model"]["resources"] == container["resources"]


def test_an_engine_asks_for_a_gpu(write):
    fields = {"library": "tensorrt", "version": "10.14", "capabilities": ["8.9"]}
    _, read = write(manifest(runtime="tensorrt", format="tensorrt", runtime_fields=fields))
    resources = read("service/serving-runtime.yaml")["spec"]["containers"][0]["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"


def test_a_canary_is_the_same_service_with_a_part_of_its_requests(write):
    _, read = write(manifest())
    canary = read("canary/canary.yaml")
    assert canary["metadata"] == {"name": "resnet50"}
    assert canary["spec"] == {"predictor": {"canaryTrafficPercent": 10}}
    assert read("canary/kustomization.yaml") == {"resources": ["../service"], "patches": [{"path": "canary.yaml"}]}


@pytest.mark.parametrize("name", ["50-layers", HOSTILE, "Großes Modell", "日本", "-"])
def test_a_service_has_a_name_that_kubernetes_takes(name, write):
    _, read = write(manifest(name=name))
    written = read("service/inference-service.yaml")["metadata"]["name"]
    assert written[0].isalpha()
    assert written.replace("-", "a").isalnum()
    assert written.isascii()
    assert len(written) <= 40


def test_hostile_names_stay_text(write):
    folder, read = write(hostile())
    for path in folder.rglob("*.yaml"):
        assert read(path.relative_to(folder)), path
    readme = (folder / "README.md").read_text()
    assert "<script>" not in readme
    assert "(javascript" not in readme.replace(" (javascript", "")


@pytest.mark.slow
@pytest.mark.parametrize("record", [manifest(), manifest(**OPENVINO), hostile()], ids=["triton", "python", "hostile"])
def test_kserves_sdk_knows_all_that_is_written(record, write):
    if (environment := find_environment("kserve")) is None:
        pytest.skip("mopt tools install kserve")
    folder, _ = write(record)
    (proof,) = Kserve().check(folder, manifest=record, environment=environment)
    assert proof.state == "proven", proof.detail


@pytest.mark.slow
def test_kserves_sdk_finds_a_field_that_there_is_not(write):
    if (environment := find_environment("kserve")) is None:
        pytest.skip("mopt tools install kserve")
    folder, _ = write(manifest())
    path = folder / "service" / "inference-service.yaml"
    path.write_text(path.read_text().replace("minReplicas", "minimumReplicas"))
    (proof,) = Kserve().check(folder, manifest=manifest(), environment=environment)
    assert proof.state == "failed"
    assert "minimumReplicas is no field of V1beta1PredictorSpec" in proof.detail


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("variant", ["service", "canary", "standard"])
def test_kubectl_makes_resources_of_each_variant(variant, write):
    folder, _ = write(hostile())
    done = subprocess.run(["kubectl", "kustomize", folder / variant], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    service = next(each for each in YAML(typ="safe", pure=True).load_all(done.stdout) if each["kind"] == "InferenceService")
    assert ("canaryTrafficPercent" in service["spec"]["predictor"]) == (variant == "canary")
    assert ("autoScaling" in service["spec"]["predictor"]) == (variant == "standard")
    assert ("scaleMetric" in service["spec"]["predictor"]) == (variant != "standard")
