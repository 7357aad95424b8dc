"""The scripts of the GitLab jobs, run in a plain shell as a slim image has it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import digits

ROOT = Path(__file__).parents[2]
JOBS = ("build", "gate", "size")
PROGRAMS = str(Path(sys.executable).parent)

pytestmark = pytest.mark.skipif(not shutil.which("dash"), reason="needs dash")


def job_of(name):
    yaml = pytest.importorskip("ruamel.yaml")
    return yaml.YAML(typ="safe").load(ROOT / "ci" / f"gitlab-{name}.yml")[f".mopt-{name}"]


def run_script(job, folder, variables, path):
    environment = {**job["variables"], **variables, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["dash", "-e", "-c", job["script"][1]], env={**os.environ, **environment}, cwd=folder,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def recorded(job, folder, variables):
    """Run the script with a mopt that notes its arguments, and return these."""
    stub = folder / "bin" / "mopt"
    stub.parent.mkdir()
    stub.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\npathlib.Path('arguments.json').write_text(json.dumps(sys.argv[1:]))\n"
    )
    stub.chmod(0o755)
    done = run_script(job, folder, variables, stub.parent)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "arguments.json").read_text())


def test_a_build(tmp_path):
    given = recorded(job_of("build"), tmp_path, {"MOPT_ARGUMENTS": "--rate=10\n\n--name=x y"})
    assert given == [
        "build", "--recipe=mopt.toml", "--time-budget=30m", "--out=model.mopt", "--force", "--rate=10", "--name=x y",
    ]  # fmt: skip


def test_a_gate(tmp_path):
    given = recorded(job_of("gate"), tmp_path, {"MOPT_ARGUMENTS": "--limit=size: +10%"})
    assert given == [
        "gate", "--against=mopt-baseline.json", "--inconclusive=reject", "--out=mopt-gate", "--force",
        "--junit=mopt-gate.xml", "--markdown=mopt-gate.md", "--limit=size: +10%", "--", "model.mopt",
    ]  # fmt: skip


def test_a_sizing(tmp_path):
    given = recorded(job_of("size"), tmp_path, {"MOPT_RATE": "10", "MOPT_P99": "", "MOPT_ARGUMENTS": "--compare=aws-*"})
    assert given == ["size", "--out=mopt-size.html", "--force", "--rate=10", "--compare=aws-*", "--", "model.mopt"]


@pytest.mark.parametrize(
    "text", ["$(touch broken)", "`touch broken`", "a'b\"c", "x; touch broken", "LINES", "$HOME", "*", "\\"]
)
@pytest.mark.parametrize("name", JOBS)
def test_a_value_is_never_a_part_of_the_script(tmp_path, name, text):
    job = job_of(name)
    variables = {
        variable: text for variable in job["variables"] if variable not in {"MOPT_INSTALL", "MOPT_CACHE"}
    }  # fmt: skip
    given = recorded(job, tmp_path, variables)
    assert not (tmp_path / "broken").exists()
    assert text in given
    values = [each.partition("=")[2] for each in given if each.startswith("--") and "=" in each]
    assert values.count(text) == len(variables) - 1 - (name != "build")


@pytest.mark.parametrize("name", JOBS)
def test_what_a_job_keeps_is_what_its_script_writes(name):
    job = job_of(name)
    kept = [*job["artifacts"]["paths"], *job["artifacts"].get("reports", {}).values()]
    assert all(path in job["script"][1] for path in kept)


@pytest.mark.slow
def test_a_real_gate(tmp_path):
    small, job = digits(tmp_path), job_of("gate")
    variables = {
        "MOPT_CANDIDATE": str(small.model), "MOPT_AGAINST": str(small.model),
        "MOPT_ARGUMENTS": f"--data\n{small.data}\n--no-speed",
    }  # fmt: skip
    done = run_script(job, tmp_path, variables, PROGRAMS)
    assert done.returncode == 0, done.stderr
    for path in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (tmp_path / path).exists()
