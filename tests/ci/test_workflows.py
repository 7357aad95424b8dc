"""Files that only GitHub, GitLab and pre-commit run: as far as they can be checked without these."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
EXAMPLES = ROOT / "examples" / "ci"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCHEMAS = {
    "github-actions": [ROOT / "action.yml"],
    "github-workflows": [*WORKFLOWS, EXAMPLES / "github.yml"],
    "github-issue-forms": [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"],
    "github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "dependabot": [GITHUB / "dependabot.yml"],
    "gitlab-ci": [*sorted((ROOT / "ci").glob("gitlab-*.yml")), EXAMPLES / "gitlab.yml"],
}


def read(path):
    yaml = pytest.importorskip("ruamel.yaml")
    return yaml.YAML(typ="safe").load(path)


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def program(name):
    """A linter from pip beside the interpreter, or from anywhere."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_keep_to_the_public_schemas(schema):
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, SCHEMAS[schema])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_gives_away_nothing(path):
    """No permission but those that a job names, no token left on the disk, no code of others that can change unseen."""
    workflow = read(path)
    assert workflow["permissions"] == {}
    assert "pull_request_target" not in workflow["on"]
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert {"permissions", "timeout-minutes", "name"} <= set(job)
    for step in steps(workflow):
        assert "${{" not in step.get("run", ""), "an expression in a script runs whatever its value holds"
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    for line in path.read_text().splitlines():
        if (used := re.search(r"uses: (\S+)(.*)", line)) and used[1] != "./":
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", used[1]), line
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", used[2]), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_is_there(path):
    scripts = "\n".join(step.get("run", "") for step in steps(read(path)))
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {target for line in re.findall(r"\bmake ([\w -]+)", scripts) for target in line.split()} - {"PYTHON"} <= set(targets)
    for named in re.findall(r"\b(?:ci|tests|examples)/[\w./-]+", scripts):
        assert (ROOT / named).exists(), named
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert set(re.findall(r"--group (\w+)", scripts)) <= set(groups)


def test_only_the_job_that_publishes_can_speak_for_the_project():
    """The one that has the identity that PyPI trusts runs no code of the project."""
    job = read(GITHUB / "workflows" / "release.yml")["jobs"]["pypi"]
    assert job["permissions"] == {"id-token": "write"}
    assert job["environment"]["name"] == "pypi"
    assert [step["uses"].partition("@")[0] for step in job["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]


@pytest.mark.parametrize("path", [EXAMPLES / "github.yml", GITHUB / "workflows" / "ci.yml"], ids=lambda path: path.stem)
def test_the_action_is_called_with_inputs_that_it_has(path):
    action = read(ROOT / "action.yml")
    calls = [step for step in steps(read(path)) if step.get("uses", "").startswith(("./", "mopt/mopt@"))]
    assert len(calls) == 3
    for call in calls:
        command = call["with"].get("command", "gate")
        for name in call["with"]:
            commands = action["inputs"][name]["description"].partition(":")[0].split(", ")
            assert command in commands or name in {"command", "install", "arguments", "out"}, name
    text = path.read_text()
    assert set(re.findall(r"steps\.build\.outputs\.([\w-]+)", text)) <= set(action["outputs"])


def test_the_example_for_gitlab_extends_jobs_that_are_there():
    example = read(EXAMPLES / "gitlab.yml")
    for included in example["include"]:
        assert (ROOT / "ci" / Path(included["remote"]).name).is_file()
    for name in ("build", "gate", "size"):
        job = read(ROOT / "ci" / f"gitlab-{name}.yml")[example[name]["extends"]]
        assert set(example[name].get("variables", {})) <= set(job["variables"])


@pytest.mark.parametrize("command", [("zizmor", "--offline", "--pedantic", "--quiet", "."), ("hadolint", "Dockerfile")])
def test_linters_find_nothing(command):
    if (path := program(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([path, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- pre-commit ---------------------------------------------------------------------------------------------------------


def test_the_hook_takes_recipes_and_nothing_else():
    (hook,) = read(ROOT / ".pre-commit-hooks.yaml")
    assert {"id", "name", "entry", "language", "files", "types"} <= set(hook)
    (repository,) = read(EXAMPLES / "pre-commit-config.yaml")["repos"]
    assert repository["hooks"] == [{"id": hook["id"]}]
    for name, taken in {
        "mopt.toml": True, "examples/magika/mopt.toml": True, "nightly.mopt.toml": True, "a/nightly.mopt.toml": True,
        "pyproject.toml": False, "notmopt.toml": False, "mopt.toml.bak": False, "mopt/x.toml": False,
    }.items():  # fmt: skip
        assert bool(re.search(hook["files"], name)) is taken, name


def test_the_hook_runs(tmp_path):
    (hook,) = read(ROOT / ".pre-commit-hooks.yaml")
    script, *arguments = hook["entry"].split()
    entry = str(Path(sys.executable).parent / script)
    good, wrong = ROOT / "examples" / "magika" / "mopt.toml", tmp_path / "mopt.toml"
    wrong.write_text('model = "model.onnx"\ntolerence = "1%"\n')
    done = subprocess.run([entry, *arguments, str(good)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([entry, *arguments, str(good), str(wrong)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "tolerence" in done.stdout + done.stderr
