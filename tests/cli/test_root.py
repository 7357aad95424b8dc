import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mopt.cli import COMMANDS, PANELS, app, load_command, main

GOLDEN = Path(__file__).parents[1] / "golden"


def mopt(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mopt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_is_what_was_agreed_on():
    assert mopt("--help", env={**os.environ, "COLUMNS": "80"}).stdout == (GOLDEN / "mopt.txt").read_text()


def every_command() -> list[str]:
    """The words after ``mopt`` of every command, groups and their own commands included."""
    names = []
    for name in COMMANDS:
        names += [name, *(f"{name} {inner}" for inner in getattr(load_command(name), "commands", ()))]
    return names


@pytest.mark.parametrize("words", every_command())
def test_the_help_of_every_command_is_what_was_agreed_on(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["mopt", *words.split(), "--help"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    shown = capsys.readouterr().out
    golden = GOLDEN / f"mopt-{words.replace(' ', '-')}.txt"
    if os.environ.get("MOPT_WRITE_GOLDEN"):
        golden.write_text(shown)
    assert shown == golden.read_text(), "MOPT_WRITE_GOLDEN=1 writes it anew"
    assert f"Usage: mopt {words}" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_every_command_is_in_one_panel():
    assert sorted(COMMANDS) == sorted(name for commands in PANELS.values() for name in commands)
    modules = {path.stem for path in Path(sys.modules["mopt.cli"].__file__).parent.glob("[a-z]*.py")}
    assert modules == set(COMMANDS)


def test_no_arguments_print_the_help(capsys):
    outcome = CliRunner().invoke(app, [])
    assert outcome.exit_code == 2
    assert "Usage: " in outcome.stderr
    assert outcome.stdout == ""


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['mopt', '--help']; from mopt.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('click', 'numpy', 'pydantic', 'rich', 'onnx', 'onnxruntime', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.endswith("[]\n")


def cpu(*command: str) -> float:
    """Seconds of user and system time of a run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


EMPTY = "import argparse, json, subprocess"
"""What about any Python program imports: it costs 0.03 s where ``mopt --help`` may cost 0.15 s and a command's help 0.20 s."""


def test_help_costs_little_more_cpu_than_an_empty_interpreter():
    empty = min(cpu("-c", EMPTY) for _ in range(5))
    assert min(cpu("-m", "mopt", "--help") for _ in range(5)) < 6 * empty


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_imports_nothing_heavy(name):
    code = f"import sys; sys.argv = ['mopt', '{name}', '--help']; from mopt.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('click', 'numpy', 'pydantic', 'rich', 'onnx', 'onnxruntime', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", ["build", "gate"])
def test_the_help_of_the_largest_commands_costs_little_more(name):
    empty = min(cpu("-c", EMPTY) for _ in range(3))
    assert min(cpu("-m", "mopt", name, "--help") for _ in range(3)) < 7 * empty


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["bild"], "unknown command: bild", "did you mean build?"),
        (["baseline", "sett"], "unknown command: sett", "did you mean set?"),
        (["build", "--tolerence", "1"], "No such option: --tolerence", "did you mean --tolerance?"),
        (["gate", "x", "--budget", "1"], "No such option: --budget", "did you mean --time-budget?"),
        (["bench", "x", "--no-predikt"], "No such option: --no-predikt", "did you mean --no-predict?"),
        (["build", "--zzz"], "No such option: --zzz", "mopt build --help"),
        (["build", "--objective", "lattency"], "'lattency' is not one of", "did you mean latency?"),
        (["size", "x", "--balancer", "round robin"], "'round robin' is not one of", "did you mean round-robin?"),
        (["build", "--objective", "zzz"], "'zzz' is not one of", "mopt build --help"),
        (["build", "--rate", "many"], "'--rate': Input should be a valid number", "mopt build --help"),
        (["explain", "x", "--batch", "0"], "greater than or equal to 1 (given: '0')", "mopt explain --help"),
        (["verify"], "Missing argument 'ARTIFACT'", "mopt verify --help"),
        (["build", "--data"], "'--data' requires an argument", "mopt build --help"),
        (["baseline"], "Missing command", "mopt baseline --help"),
        (["list", "metric"], "nothing to list is called metric", "did you mean metrics?"),
        (["check", "nowhere.toml"], "1 mistake in nowhere.toml", ""),
        (["bench", "x", "--protocol", "bentoml"], "--protocol is about a server", "give --server URL"),
        (["bench", "x", "--server", "http://h", "--max-batch", "2"], "--max-batch is about an own replica", ""),
        (["gate", "x", "--against", "y", "--batch-sizes", "one"], "--batch-sizes is 'one'", "1,8"),
        (["size", "x", "--daily", "1,2"], "--daily has 2 numbers", "24 hours"),
        (["size", "x", "--rate", "1", "--max-cost", "0"], "--max-cost is 0", "above 0"),
        (["build", "missing.onnx", "--data", "x.npz"], "missing.onnx", "hint: "),
        (["build"], "nothing to build", "mopt init"),
        (["build", "--recipe", "nowhere.toml"], "cannot read the recipe nowhere.toml", "mopt init"),
        (["verify", "nowhere"], "nowhere is not an artifact", "mopt build"),
        (["inspect", "nowhere"], "nowhere", "give a .onnx"),
        (["list", "nonsense"], "nonsense", "choose from"),
    ],
)
def test_a_mistake_is_one_line_a_hint_and_exit_code_2(tmp_path, arguments, message, hint):
    outcome = mopt(*arguments, cwd=tmp_path)
    assert outcome.returncode == 2, outcome.stderr
    assert outcome.stdout == "" or arguments[0] == "check"
    lines = outcome.stderr.splitlines()
    assert lines[0].startswith("mopt: ")
    assert message in lines[0]
    assert hint in outcome.stderr
    assert len(lines) <= 2
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "cache"])


def test_version():
    assert mopt("--version").stdout.startswith("mopt 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script_for(shell):
    script = mopt(env={**os.environ, "_MOPT_COMPLETE": f"source_{shell}"})
    assert script.returncode == 0
    assert "_MOPT_COMPLETE=complete_" + shell in script.stdout


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_shell_is_found_out_for_the_script():
    shown = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", f"'{sys.executable}' -m mopt --show-completion; exit $?"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "complete -o default -F _mopt_completion mopt" in shown.stdout, shown.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_is_installed_where_the_shell_finds_it(tmp_path):
    installed = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", f"'{sys.executable}' -m mopt --install-completion; exit $?"],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    assert any("_MOPT_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("line", "word", "completions"),
    [
        ("mopt b", 1, {"build", "bench", "baseline"}),
        ("mopt build --tol", 2, {"--tolerance"}),
        ("mopt build --objective t", 3, {"throughput"}),
        ("mopt baseline s", 2, {"set", "show"}),
        ("mopt list pa", 2, {"passes"}),
    ],
)
def test_bash_completes(line, word, completions):
    environment = {**os.environ, "_MOPT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(word)}
    answer = mopt(env=environment)
    assert answer.returncode == 0, answer.stderr
    assert set(answer.stdout.split()) == completions


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ("KeyboardInterrupt()", 130, "mopt: interrupted; nothing was written\n"),
        ("BrokenPipeError()", 0, ""),
        ("OSError(errno.ENOSPC, 'full', '/x')", 2, "mopt: the disk is full: /x\nhint: free some space"),
        ("PermissionError(errno.EACCES, 'no', '/x')", 2, "mopt: no permission to write: /x\nhint: choose another folder"),
        ("mopt.errors.CheckFailedError('no', 'look')", 3, "mopt: no\nhint: look\n"),
        ("mopt.errors.CheckInconclusiveError('no', 'look')", 4, "mopt: no\nhint: look\n"),
        ("mopt.errors.NotApplicableError('bug')", 1, "Traceback"),
        ("ZeroDivisionError()", 1, "Traceback"),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(error, code, words):
    program = (
        "import errno, sys, mopt.errors, mopt.cli, mopt.workflows.verify\n"
        f"def fail(artifact, progress): raise {error}\n"
        "mopt.workflows.verify.verify = fail\n"
        "sys.argv = ['mopt', 'verify', 'x']\n"
        "mopt.cli.main()\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == code, outcome.stderr
    assert outcome.stderr.startswith(words)
    assert words or not outcome.stderr
