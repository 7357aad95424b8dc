import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import digits
from tests.workflows.test_gate import noisy, variant

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ACTION, TEMPLATE = ROOT / "action.yml", ROOT / "ci" / "gitlab-gate.yml"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("ci"))


def read(path):
    yaml = pytest.importorskip("ruamel.yaml")
    return yaml.YAML(typ="safe").load(path)


@pytest.mark.parametrize(("schema", "path"), [("vendor.github-actions", ACTION), ("vendor.gitlab-ci", TEMPLATE)])
def test_templates_keep_to_the_public_schemas(schema, path):
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def as_the_runner_does(step, inputs, folder):
    """Run a step of the composite action: expressions filled in, the script in a file, bash as GitHub calls it."""
    environment = {
        name: value.replace("${{ inputs.", "").replace(" }}", "") for name, value in step.get("env", {}).items()
    }  # fmt: skip
    environment = {name: inputs[key] for name, key in environment.items()}
    script = folder / "step.sh"
    script.write_text(step["run"])
    files = {name: str(folder / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        env={**os.environ, **environment, **files, "GITHUB_ACTIONS": "true", "CI": "true", "PATH": path},
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def outputs(folder):
    return dict(line.split("=", 1) for line in (folder / "github_output").read_text().splitlines())


def inputs_of(action, **given):
    return {name: str(spec.get("default", "")) for name, spec in action["inputs"].items()} | given


@pytest.mark.parametrize(("worse", "code", "verdict"), [(False, 0, "pass"), (True, 3, "fail")])
def test_the_steps_of_the_action_run_as_the_runner_runs_them(small, tmp_path, worse, code, verdict):
    action = read(ACTION)
    gate = next(step for step in action["runs"]["steps"] if step.get("id") == "gate")
    candidate = variant(small, "noisy", noisy(1.5)) if worse else small.model
    arguments = f"--data\n{small.data}\n--no-speed\n--limit\nsize: +10%"
    inputs = inputs_of(action, candidate=str(candidate), against=str(small.model), arguments=arguments)
    done = as_the_runner_does(gate, inputs, tmp_path)
    assert done.returncode == code, done.stderr
    assert outputs(tmp_path) == {"verdict": verdict, "report": "mopt-gate"}
    report = tmp_path / "mopt-gate"
    assert {"report.html", "gate.json", "junit.xml", "summary.md"} <= {path.name for path in report.iterdir()}
    assert json.loads((report / "gate.json").read_text())["verdict"] == verdict
    assert f"mopt gate: {verdict}" in (tmp_path / "github_step_summary").read_text()
    assert ("::error title=mopt gate%3A accuracy::" in done.stderr) is worse


def test_an_input_is_never_a_part_of_the_script(small, tmp_path):
    action = read(ACTION)
    gate = next(step for step in action["runs"]["steps"] if step.get("id") == "gate")
    assert "${{" not in gate["run"]
    done = as_the_runner_does(gate, inputs_of(action, candidate="$(touch broken); x.onnx", against="y.onnx"), tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "broken").exists()
    assert outputs(tmp_path)["verdict"] == "error"


@pytest.mark.skipif(not shutil.which("dash"), reason="needs dash")
def test_the_script_for_gitlab_runs_in_a_plain_shell(small, tmp_path):
    job = read(TEMPLATE)[".mopt-gate"]
    environment = {
        **job["variables"], "MOPT_CANDIDATE": str(small.model), "MOPT_AGAINST": str(small.model),
        "MOPT_ARGUMENTS": f"--data\n{small.data}\n--no-speed", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["dash", "-e", "-c", job["script"][1]], env={**os.environ, **environment}, cwd=tmp_path,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (tmp_path / path).exists()
