import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mopt.cli import COMMANDS, root

GOLDEN = Path(__file__).parents[1] / "golden"


def mopt(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mopt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_is_what_was_agreed_on():
    assert mopt("--help", env={**os.environ, "COLUMNS": "80"}).stdout == (GOLDEN / "help.txt").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_says_what_the_overview_says(name):
    found = CliRunner().invoke(root, [name, "--help"], prog_name="mopt")
    assert found.exit_code == 0, found.output
    assert "Usage: mopt " + name in found.output


def test_examples_keep_their_lines():
    found = CliRunner().invoke(root, ["build", "--help"], prog_name="mopt", terminal_width=80)
    assert "  mopt build --recipe mopt.toml --out artifact --force" in found.output.splitlines()


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['mopt', '--help']; from mopt.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('numpy', 'pydantic', 'rich', 'onnx', 'onnxruntime', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.endswith("[]\n")


def test_help_costs_little_more_cpu_than_an_empty_interpreter():
    def cpu(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    empty = min(cpu("-c", "import argparse, json, subprocess") for _ in range(5))
    assert min(cpu("-m", "mopt", "--help") for _ in range(5)) < 6 * empty


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["bild"], "unknown command: bild", "did you mean build?"),
        (["build", "--tolerence", "1"], "No such option", "mopt build --help"),
        (["build", "missing.onnx", "--data", "x.npz"], "missing.onnx", "hint: "),
        (["build"], "nothing to build", "mopt init"),
        (["build", "--recipe", "nowhere.toml"], "cannot read the recipe nowhere.toml", "mopt init"),
        (["verify", "nowhere"], "nowhere is not an artifact", "mopt build"),
        (["inspect", "nowhere"], "nowhere", "give a .onnx"),
        (["list", "nonsense"], "nonsense", ""),
    ],
)
def test_a_mistake_is_one_line_a_hint_and_exit_code_2(tmp_path, arguments, message, hint):
    found = mopt(*arguments, cwd=tmp_path)
    assert found.returncode == 2, found.stderr
    assert found.stdout == ""
    lines = found.stderr.splitlines()
    assert lines[0].startswith("mopt: ")
    assert message in lines[0]
    assert hint in found.stderr
    assert len(lines) <= 2
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "cache"])


def test_version():
    assert mopt("--version").stdout.startswith("mopt 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    assert "_MOPT_COMPLETE" in CliRunner().invoke(root, ["completion", shell]).output
