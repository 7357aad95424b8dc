import json
import os
import re
import subprocess
import tarfile

import numpy as np
import pytest

from mopt.artifacts.serving.sagemaker import Sagemaker
from mopt.loadgen.protocols import ask, encode
from mopt.system.environments import find_environment
from tests.artifacts.serving.services import feed, missing, serve
from tests.manifests import HOSTILE, hostile, manifest, signature

OPENVINO = {"runtime": "openvino", "format": "openvino", "runtime_fields": {"threads": 2, "precision": "f32"}}
GOLDEN = [{"images": np.zeros((1, 3, 2, 2), np.float32)}]
SMALL = signature(inputs=(signature().inputs[0].model_copy(update={"shape": ("batch", 3, 2, 2)}),))
VALUES = {
    "MODEL_URL": "s3://bucket/a & b/model.tar.gz",
    "IMAGE": "123456789012.dkr.ecr.us-east-1.amazonaws.com/x:1",
    "ROLE_ARN": "arn:aws:iam::123456789012:role/r",
    "INSTANCE_TYPE": "ml.m5.xlarge",
    "LIVE_MODEL": "live",
}
AWS = """#!/bin/sh
printf '%s\\0' "$@" >> "$CALLS"
printf '\\n' >> "$CALLS"
"""


@pytest.fixture
def write(tmp_path):
    """Write the folder; return it with a reader of its JSON."""

    def into(record, golden=()):
        source, folder = tmp_path / "model", tmp_path / "sagemaker"
        source.mkdir()
        for name in ("model.onnx", "model.xml", "model.bin"):
            (source / name).write_bytes(name.encode())
        folder.mkdir()
        Sagemaker().write(folder, manifest=record, model_folder=source, golden=golden)
        return folder, lambda name: json.loads((folder / name).read_text())

    return into


def batching(**changes):
    return manifest().batching.model_copy(update=changes)


def names(folder):
    with tarfile.open(folder / "model.tar.gz") as archive:
        return archive.getnames()


def test_tritons_repository_is_in_the_archive(write):
    folder, read = write(manifest(signature=SMALL), GOLDEN)
    assert {"resnet50/config.pbtxt", "resnet50/1/model.onnx"} <= set(names(folder))
    container = read("create-model.json")["PrimaryContainer"]
    assert container["Environment"] == {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "resnet50"}
    assert not (folder / "serve.py").exists()
    assert not [name for name in names(folder) if name.endswith(("README.md", "request.json"))]


def test_else_the_archive_has_the_code_of_awss_toolkit_and_the_image_a_server(write):
    folder, read = write(manifest(signature=SMALL, **OPENVINO, versions={"openvino": "2026.4.1"}), GOLDEN)
    assert names(folder) == [
        "code/inference.py", "code/requirements.txt", "code/served_model.py", "model/model.bin", "model/model.onnx",
        "model/model.xml", "served_model.json", "warmup.npz",
    ]  # fmt: skip
    with tarfile.open(folder / "model.tar.gz") as archive:
        assert archive.extractfile("code/requirements.txt").read().splitlines()[0] == b"openvino==2026.4.1"
    assert "Environment" not in read("create-model.json")["PrimaryContainer"]
    copied = next(line for line in (folder / "Dockerfile").read_text().splitlines() if line.startswith("COPY"))
    assert all((folder / name).is_file() for name in copied.split()[1:-1])


def test_the_endpoint_has_the_replicas_and_is_scaled_by_what_one_holds_in_a_minute(write):
    _, read = write(manifest(batching=batching(replicas=3, spare_replicas=1, peak_qps=150.0)))
    (variant,) = read("endpoint-config.json")["ProductionVariants"]
    assert variant["InitialInstanceCount"] == 3
    assert 60 <= variant["ContainerStartupHealthCheckTimeoutInSeconds"] <= 3600
    target, policy = read("scalable-target.json"), read("scaling-policy.json")
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 6)
    assert target["ResourceId"] == policy["ResourceId"] == "endpoint/resnet50/variant/main"
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracking["TargetValue"] == 6000.0
    assert tracking["PredefinedMetricSpecification"]["PredefinedMetricType"] == "SageMakerVariantInvocationsPerInstance"


def test_without_a_traffic_nothing_is_scaled(write):
    folder, _ = write(manifest(batching=batching(rate=None, utilization=None, peak_qps=None)))
    assert not list(folder.glob("scal*"))
    assert "autoscaling" not in (folder / "create-endpoint.sh").read_text()


def test_a_shadow_gets_a_copy_of_what_the_live_model_gets(write):
    _, read = write(manifest())
    config, plain = read("endpoint-config-shadow.json"), read("endpoint-config.json")
    (live,), (shadow,) = config["ProductionVariants"], config["ShadowProductionVariants"]
    assert live["ModelName"] == "MOPT_LIVE_MODEL"
    assert shadow["ModelName"] == plain["ProductionVariants"][0]["ModelName"] == "resnet50-aaaaaaaa"
    assert live["InitialVariantWeight"] == shadow["InitialVariantWeight"]
    assert config["EndpointConfigName"] != plain["EndpointConfigName"]


@pytest.mark.parametrize(
    ("target", "kind", "said"),
    [
        ("aws-c7i-2xlarge", "ml.c7i.2xlarge", "ml.c7i.2xlarge is the target aws-c7i-2xlarge"),
        ("cpu", "MOPT_INSTANCE_TYPE", "INSTANCE_TYPE is any with 2 vCPUs"),
    ],
)
def test_the_machine_is_the_target_or_has_its_size(target, kind, said, write):
    folder, read = write(manifest(target={"name": target}))
    assert read("endpoint-config.json")["ProductionVariants"][0]["InstanceType"] == kind
    assert said in (folder / "README.md").read_text()


def calls(script, folder, tmp_path, **variables):
    """Run a script with an ``aws`` that only notes how it is called; return the calls."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "aws").write_text(AWS)
    (programs / "aws").chmod(0o755)
    noted = tmp_path / "calls"
    noted.write_text("")
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(noted), **variables}
    done = subprocess.run(["sh", folder / script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    return done, [line.split("\0")[:-1] for line in noted.read_text().split("\0\n")[:-1] for line in [line + "\0"]]


@pytest.mark.parametrize("script", ["create-endpoint.sh", "shadow-endpoint.sh"])
def test_a_script_sends_the_requests_filled_in(script, write, tmp_path):
    folder, _ = write(manifest(target={"name": "cpu"}))
    done, made = calls(script, folder, tmp_path, **VALUES)
    assert done.returncode == 0, done.stderr
    assert [call[1] for call in made][:4] == ["cp", "create-model", "create-endpoint-config", made[3][1]]
    assert made[0] == ["s3", "cp", "model.tar.gz", VALUES["MODEL_URL"]]
    sent = [json.loads(call[call.index("--cli-input-json") + 1]) for call in made if call[2:] and call[3].startswith("{")]
    assert sent[0]["PrimaryContainer"]["Image"] == VALUES["IMAGE"]
    assert sent[0]["PrimaryContainer"]["ModelDataUrl"] == VALUES["MODEL_URL"]
    assert not re.search("MOPT_", json.dumps(sent))
    if script == "shadow-endpoint.sh":
        assert sent[1]["ProductionVariants"][0]["ModelName"] == "live"
    else:
        assert [call[1] for call in made][-2:] == ["register-scalable-target", "put-scaling-policy"]


def test_a_script_without_its_values_does_nothing(write, tmp_path):
    folder, _ = write(manifest(target={"name": "cpu"}))
    done, made = calls("create-endpoint.sh", folder, tmp_path, **{key: VALUES[key] for key in ("MODEL_URL", "IMAGE")})
    assert done.returncode != 0
    assert "ROLE_ARN" in done.stderr
    assert made == []


@pytest.mark.parametrize("name", [HOSTILE, "$(id)", "`id`", "50 layers", "日本"])
def test_hostile_names_reach_no_shell(name, write):
    folder, read = write(hostile().model_copy(update={"name": name}))
    for script in folder.glob("*.sh"):
        text = script.read_text()
        assert not re.search(r"alert\(|\$\(id|`", text)
        assert subprocess.run(["sh", "-n", script]).returncode == 0
    assert re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", read("create-model.json")["ModelName"])


@pytest.mark.servers
@pytest.mark.parametrize("record", [manifest(), manifest(**OPENVINO), hostile()], ids=["triton", "python", "hostile"])
def test_botocore_knows_all_that_is_sent(record, write):
    if (environment := find_environment("sagemaker")) is None:
        pytest.skip("mopt tools install sagemaker")
    folder, _ = write(record)
    (proof,) = Sagemaker().check(folder, manifest=record, environment=environment)
    assert proof.state == "proven", proof.detail


@pytest.mark.servers
@pytest.mark.skipif(bool(missing("sagemaker") or missing("triton")), reason="mopt tools install sagemaker triton")
def test_tritons_frontend_for_sagemaker_answers_as_the_runtime(tmp_path):
    with serve("sagemaker", "onnxruntime", tmp_path) as service:
        assert service.endpoint.path == "/invocations"
        feeds = [feed(seed) for seed in range(4)]
        for sent, request in zip(feeds, encode(service.endpoint, feeds), strict=True):
            answer = ask(service.endpoint, request)
            for name, value in service.expected(sent).items():
                np.testing.assert_allclose(answer[name].reshape(value.shape), value, rtol=1e-6, atol=1e-6)
