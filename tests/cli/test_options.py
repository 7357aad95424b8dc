"""Every option of every command does something, and means the same in all of them.

A command is run twice in the same folder, without an option and with it, its workflow replaced by one that notes what it is
given. Something must differ: what the workflow is given, what is printed, what is written, or what it leaves with.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from mopt.cli import COMMANDS, app, load_command
from tests.cli.results import stored_baseline

BASES = {
    "build": ["m.onnx", "--data", "a.npz"],
    "init": ["m.onnx"],
    "check": ["good.toml"],
    "inspect": ["m.onnx"],
    "explain": ["m.onnx", "--data", "a.npz"],
    "rebuild": ["model.mopt", "--target", "nvidia-l4"],
    "verify": ["model.mopt"],
    "package": ["model.mopt", "--serve", "triton"],
    "push": ["model.mopt", "s3://bucket/there"],
    "tools list": [],
    "tools install": ["triton"],
    "tools remove": ["triton"],
    "label": ["model.mopt"],
    "gate": ["m.onnx", "--against", "old.onnx", "--data", "a.npz"],
    "baseline set": ["m.onnx", "--data", "a.npz"],
    "baseline show": ["kept.json"],
    "bench": ["model.mopt"],
    "drift": ["model.mopt", "--requests", "a.npz"],
    "size": ["model.mopt", "--rate", "100"],
    "list": ["runtimes"],
    "doctor": [],
    "cache": [],
}
"""What each command is run with at least."""

_DATA = {"--data": ["b.npz"], "--label": ["y"], "--group": ["patient"], "--evaluation": ["10"]}
_OUTPUT = {"--json": [], "--quiet": []}
_TRAFFIC = {"--rate": ["7"], "--p99": ["90ms"], "--arrivals": ["bursty"], "--spare": ["3"], "--utilization": ["0.5"]}
_TO_SERVER = ["--server", "http://h:8000", "--rate", "5"]

EXAMPLES: dict[str, dict[str, list[str]]] = {
    "build": {
        **_DATA, **_TRAFFIC, **_OUTPUT,
        "--calibration": ["9"], "--target": ["nvidia-l4"], "--objective": ["size"], "--tolerance": ["2%"],
        "--metric": ["f1"], "--confidence": ["0.9"], "--inconclusive": ["reject"], "--effort": ["quick"],
        "--candidate": ["*int8*"], "--max-batch": ["4"], "--threads": ["1"], "--time-budget": ["1m"],
        "--memory": ["1GB"], "--name": ["other"], "--serve": ["bentoml"],
        "--out": ["there"], "--force": [], "--dry-run": [], "--all": [], "--recipe": ["good.toml"],
        "--trust-pickle": [], "--known-accuracy": ["76%"], "--labels": ["labels.csv"],
        "--context": ["1024"], "--choices": ["questions.jsonl"], "--kv-cache": ["int8"], "--bits": ["5"],
    },
    "init": {"--data": ["b.npz"], "--out": ["-"], "--force": [], "--schema": [], "--json": []},
    "check": {"--json": []},
    "inspect": {"--json": []},
    "explain": {
        **_OUTPUT,
        "--data": ["b.npz"], "--candidate": ["*int8*"], "--target": ["nvidia-l4"], "--batch": ["2"], "--effects": ["3"],
        "--top": ["1"], "--trust-pickle": [],
    },
    "rebuild": {**_OUTPUT, "--target": ["nvidia-t4"], "--out": ["there"], "--force": []},
    "verify": {**_OUTPUT, "--server": ["triton"]},
    "push": {**_OUTPUT, "--force": []},
    "package": {**_OUTPUT, "--serve": ["bentoml"], "--out": ["there"], "--force": [], "--judge-again": []},
    "tools list": {"--json": []},
    "tools install": _OUTPUT,
    "tools remove": {"--json": []},
    "label": {**_OUTPUT, "--data": ["b.npz"], "--out": ["there"], "--force": []},
    "gate": {
        **_DATA, **_OUTPUT,
        "--against": ["other.onnx"], "--tolerance": ["2%"], "--metric": ["f1"], "--limit": ["p99: +5%"], "--slice": ["a"],
        "--slice-tolerance": ["3%"], "--strict-slices": [], "--confidence": ["0.9"], "--inconclusive": ["accept"],
        "--batch-sizes": ["1,4"], "--threads": ["1"], "--time-budget": ["1m"], "--no-speed": [], "--out": ["there"],
        "--junit": ["j.xml"], "--markdown": ["s.md"], "--force": [], "--recipe": ["good.toml"], "--trust-pickle": [],
    },
    "baseline set": {
        **_DATA, **_OUTPUT,
        "--metric": ["f1"], "--batch-sizes": ["1,4"], "--threads": ["1"], "--time-budget": ["1m"], "--no-speed": [],
        "--out": ["there.json"],
        "--force": [], "--recipe": ["good.toml"], "--trust-pickle": [],
    },
    "baseline show": {"--json": []},
    "bench": {
        **_OUTPUT,
        "--data": ["b.npz"], "--rate": ["7"], "--p99": ["90ms"], "--arrivals": ["bursty"], "--max-batch": ["4"],
        "--cores": ["1"], "--duration": ["2s"], "--server": ["http://h:8000"], "--protocol": ["bentoml"],
        "--model": ["other"], "--header": ["A: b"], "--timeout": ["1s"], "--predict": [], "--no-predict": [],
        "--out": ["p.json"], "--force": [],
    },
    "drift": {
        **_OUTPUT,
        "--requests": ["b.npz"], "--state": ["s.json"], "--prometheus": ["d.prom"], "--confidence": ["0.9"],
        "--inputs-only": [],
    },
    "size": {
        **_TRAFFIC, **_OUTPUT,
        "--daily": [",".join(["5"] * 24)], "--balancer": ["round-robin"], "--compare": ["aws-*"], "--max-cost": ["500"],
        "--this-machine": ["aws-c6a-xlarge"], "--price": ["0.2"], "--out": ["there.html"], "--force": [],
    },
    "list": {"--json": []},
    "doctor": {"--json": []},
    "cache": {"--json": [], "--clear": []},
}  # fmt: skip
"""For each option of each command the values that it is given."""

BEFORE: dict[tuple[str, str], list[str]] = {
    ("init", "--force"): ["--out", "good.toml"],
    ("gate", "--force"): ["--out", "report"],
    ("baseline set", "--force"): ["--out", "kept.json"],
    ("bench", "--force"): ["--out", "kept.json"],
    ("size", "--force"): ["--out", "kept.json"],
    ("bench", "--server"): ["--rate", "5"],
    ("verify", "--quiet"): ["--server", "triton"],
    **{
        ("bench", option): _TO_SERVER
        for option in ("--protocol", "--model", "--header", "--timeout", "--predict", "--no-predict")
    },
}
"""What an option needs beside it to have an effect."""
BEFORE["bench", "--predict"] = [*_TO_SERVER, "--no-predict"]


# --- the walk through all options ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        command: The words after ``mopt``.
        name: Such as ``--tolerance``.
        parameter: Typer's description of it.
    """

    command: str
    name: str
    parameter: Any


def _commands() -> Iterator[tuple[str, Any]]:
    for name in COMMANDS:
        command = load_command(name)
        inner = getattr(command, "commands", None)
        yield from [(name, command)] if inner is None else [(f"{name} {word}", one) for word, one in inner.items()]


OPTIONS = [
    Option(words, name, parameter)
    for words, command in _commands()
    for parameter in command.params
    if parameter.param_type_name == "option"
    for name in (*parameter.opts, *parameter.secondary_opts)
    if name.startswith("--")
]


def _observe(words: str, arguments: list[str], received: list[str]) -> dict[str, Any]:
    """Run a command; return everything about it that somebody can notice."""
    received.clear()
    outcome = CliRunner().invoke(app, [*words.split(), *BASES[words], *arguments])
    files = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path().rglob("*"))
        if path.is_file() and "cache" not in path.parts
    }
    cached = sorted(str(path) for path in Path("cache").rglob("*"))
    return {
        "given": list(received), "printed": (outcome.stdout, outcome.stderr), "files": files, "cached": cached,
        "exception": repr(outcome.exception),
    }  # fmt: skip


def _fresh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder to run in."""
    (folder / "report").mkdir(parents=True)
    (folder / "cache" / "models" / "kept").mkdir(parents=True)
    (folder / "cache" / "models" / "kept" / "x").write_bytes(b"0" * 1000)
    (folder / "report" / "gate.json").write_text("{}")
    (folder / "kept.json").write_text(stored_baseline().model_dump_json())
    (folder / "good.toml").write_text('tolerance = "7%"\nmodel = "n.onnx"\n[search]\nmax_batch = 3\n[data]\npath = "a.npz"\n')
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "m", shape[:1], shape[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), folder / "m.onnx")
    monkeypatch.setenv("MOPT_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.command} {option.name}")
def test_an_option_does_something(option, received, tmp_path, monkeypatch):
    assert option.name in EXAMPLES[option.command], "a new option needs a row in EXAMPLES"
    beside = BEFORE.get((option.command, option.name), [])
    seen = []
    for run, arguments in (("without", beside), ("with", [*beside, option.name, *EXAMPLES[option.command][option.name]])):
        _fresh(tmp_path / run, monkeypatch)
        seen.append(_observe(option.command, arguments, received))
    without, with_option = seen
    assert "Error" not in with_option["exception"], with_option
    changed = [key for key in without if without[key] != with_option[key]]
    assert changed, f"{option.name} of mopt {option.command} changes nothing"


def test_no_example_is_of_an_option_that_is_gone():
    there = {(option.command, option.name) for option in OPTIONS}
    assert {(command, name) for command, examples in EXAMPLES.items() for name in examples} == there
    assert set(BEFORE) <= there


def test_an_option_of_one_name_is_the_same_in_every_command():
    by_name: dict[str, list[Option]] = {}
    for option in OPTIONS:
        by_name.setdefault(option.name, []).append(option)
    for name, options in by_name.items():
        kinds = {
            (
                option.parameter.type_descriptor.annotation,
                option.parameter.multiple,
                option.parameter.metavar,
                option.parameter.rich_help_panel,
                option.parameter.help.partition(" Default:")[0],
                tuple(option.parameter.opts),
            )
            for option in options
        }
        assert len(kinds) == 1, f"{name}: {kinds}"


def test_a_default_is_the_one_that_the_help_names():
    for option in OPTIONS:
        default = option.parameter.default
        if default not in (None, False):
            assert option.parameter.help.endswith(f"Default: {default}."), (option.command, option.name)


def test_defaults_that_the_recipe_has_are_the_ones_that_the_help_names():
    from mopt.recipe import Traffic

    traffic = Traffic()
    texts = {option.name: option.parameter.help for option in OPTIONS}
    assert texts["--spare"].endswith(f"Default: {traffic.spare}.")
    assert texts["--utilization"].endswith(f"Default: {traffic.utilization}.")
    assert texts["--arrivals"].endswith(f"Default: {traffic.arrivals}.")


def test_every_protocol_can_be_chosen():
    from mopt.loadgen.protocols import PROTOCOLS

    (protocol,) = (option.parameter for option in OPTIONS if option.name == "--protocol")
    assert set(protocol.type_descriptor.choices) == set(PROTOCOLS)


_AT_ONCE = ("baseline show", "tools list", "tools remove")
"""Commands that are done at once, beside others in their module that are not."""


def test_every_command_with_progress_can_be_quiet_and_every_result_is_json():
    for words, _ in _commands():
        names = {option.name for option in OPTIONS if option.command == words}
        source = Path(sys.modules["mopt.cli." + words.split()[0]].__file__).read_text()
        assert "--json" in names
        assert ("--quiet" in names) == ("shown_progress" in source and words not in _AT_ONCE)
