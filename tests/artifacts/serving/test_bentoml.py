"""BentoML's files, and the Bento that BentoML itself makes of them."""

import json
import subprocess
import urllib.request

import pytest

from mopt.artifacts.serving.bentoml import Bentoml
from mopt.loadgen.server_process import free_ports, running
from mopt.system.environments import find_environment
from tests.artifacts.serving.services import feed, missing, write
from tests.manifests import manifest

ENVIRONMENT = find_environment("bentoml")


def service(folder):
    return json.loads((folder / "served_model.json").read_text())["service"]


@pytest.mark.parametrize(
    ("recipe", "predicted", "expected"),
    [
        ({"traffic": {"p99": 2_500.0}}, 23.4, 25_000),
        ({}, 1_500.0, 15_000),
        ({}, None, 60_000),
        ({"traffic": {"p99": 5.0}}, 4.0, 10_000),
    ],
    ids=["asked for", "predicted", "nothing known", "short"],
)
def test_a_request_is_refused_long_after_the_p99(recipe, predicted, expected, tmp_path):
    batching = manifest().batching.model_copy(update={"predicted_p99_ms": predicted})
    folder, _, _ = write("bentoml", "onnxruntime", tmp_path, recipe=recipe, batching=batching)
    assert service(folder)["max_latency_ms"] == expected
    assert service(folder)["timeout_s"] * 1e3 > expected


def test_it_asks_for_the_cores_and_the_memory_that_were_measured(tmp_path):
    batching = manifest().batching.model_copy(update={"instances": 3, "threads": 2})
    folder, record, _ = write("bentoml", "onnxruntime", tmp_path, batching=batching)
    wanted = service(folder)["resources"]
    assert wanted["cpu"] == "6"
    assert int(wanted["memory"].removesuffix("Mi")) << 20 > 3 * record.winner.profile.peak_bytes
    assert service(folder)["environment"] == {"OMP_NUM_THREADS": "2"}


def test_the_request_has_the_inputs_as_lists_by_name(tmp_path):
    folder, _, _ = write("bentoml", "onnxruntime", tmp_path)
    assert json.loads((folder / "request.json").read_text()) == {name: value.tolist() for name, value in feed(0).items()}


@pytest.mark.slow
@pytest.mark.skipif(ENVIRONMENT is None, reason=missing("bentoml"))
def test_a_bento_is_built_carried_elsewhere_and_served(tmp_path):
    folder, record, _ = write("bentoml", "onnxruntime", tmp_path)

    def bentoml(home, *arguments):
        variables = {"PATH": ENVIRONMENT.path, "BENTOML_HOME": str(tmp_path / home), "BENTOML_DO_NOT_TRACK": "True"}
        command = [str(ENVIRONMENT.program("bentoml")), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=variables).stdout

    tag = bentoml("here", "build", folder, "-o", "tag").strip().removeprefix("__tag__:")
    dockerfile = next((tmp_path / "here").rglob("Dockerfile")).read_text()
    assert "uv pip install" in dockerfile or "pip install" in dockerfile
    wanted = next((tmp_path / "here").rglob("requirements.txt")).read_text().split()
    assert {f"onnxruntime=={record.versions['onnxruntime']}", f"bentoml=={ENVIRONMENT.version('bentoml')}"} <= set(wanted)
    bentoml("here", "export", tag, tmp_path / "two.bento")
    bentoml("there", "import", tmp_path / "two.bento")
    (tmp_path / "scratch").mkdir()
    launch = Bentoml().launch(
        folder, manifest=record, environment=ENVIRONMENT, ports=free_ports(), scratch=tmp_path / "scratch"
    )
    (tmp_path / "there").rename(tmp_path / "scratch" / "home")
    command = [part for part in launch.command if part not in ("--working-dir", folder)]
    command[command.index("service:Api")] = tag
    with running(type(launch)(**{**vars(launch), "command": command})):
        body = (folder / "request.json").read_bytes()
        request = urllib.request.Request(launch.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert set(json.load(answer)) == {"y", "total"}


@pytest.mark.slow
@pytest.mark.skipif(ENVIRONMENT is None, reason=missing("bentoml"))
def test_the_check_builds_a_bento_and_says_why_there_is_none(tmp_path):
    folder, record, _ = write("bentoml", "onnxruntime", tmp_path)
    (proof,) = Bentoml().check(folder, manifest=record, environment=ENVIRONMENT)
    assert proof.state == "proven"
    (folder / "service.py").write_text("import there_is_no_such_module")
    (proof,) = Bentoml().check(folder, manifest=record, environment=ENVIRONMENT)
    assert proof.state == "failed"
    assert "there_is_no_such_module" in proof.detail
    (proof,) = Bentoml().check(folder, manifest=record, environment=None)
    assert proof.state == "not proven"
