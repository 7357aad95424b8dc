"""Every option of every command does something, and means the same in all of them.

A command is run twice in the same folder, without an option and with it, its workflow replaced by one that notes what it is
given. Something must differ: what the workflow is given, what is printed, what is written, or what it leaves with.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from mopt.artifacts.artifact import Artifact
from mopt.cli import COMMANDS, app, load_command
from mopt.progress import Silent
from mopt.records.baseline import Speed, StoredBaseline
from mopt.records.benchmark import Benchmark, ServerBenchmark, Verification
from mopt.records.explanation import Explanation, Layer
from mopt.records.sizing import GpuVerdict, Sizing
from mopt.records.verdict import ComparedModel, GateVerdict
from tests import manifests
from tests.workflows.test_size import profile

STAMP = {"created": "2026-11-22T20:00:00+00:00", "mopt_version": "0.1.0"}

BASES = {
    "build": ["m.onnx", "--data", "a.npz"],
    "init": ["m.onnx"],
    "check": ["good.toml"],
    "inspect": ["m.onnx"],
    "explain": ["m.onnx", "--data", "a.npz"],
    "rebuild": ["model.mopt", "--target", "nvidia-l4"],
    "verify": ["model.mopt"],
    "gate": ["m.onnx", "--against", "old.onnx", "--data", "a.npz"],
    "baseline set": ["m.onnx", "--data", "a.npz"],
    "baseline show": ["kept.json"],
    "bench": ["model.mopt"],
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
        "--metric": ["f1"], "--confidence": ["0.9"], "--inconclusive": ["reject"], "--candidate": ["*int8*"],
        "--max-batch": ["4"], "--threads": ["1"], "--time-budget": ["1m"], "--memory": ["1GB"], "--name": ["other"],
        "--serve": ["bentoml"], "--out": ["there"], "--force": [], "--dry-run": [], "--recipe": ["good.toml"],
        "--trust-pickle": [],
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
    "verify": {"--json": []},
    "gate": {
        **_DATA, **_OUTPUT,
        "--against": ["other.onnx"], "--tolerance": ["2%"], "--metric": ["f1"], "--limit": ["p99: +5%"], "--slice": ["a"],
        "--slice-tolerance": ["3%"], "--strict-slices": [], "--confidence": ["0.9"], "--inconclusive": ["accept"],
        "--batch-sizes": ["1,4"], "--threads": ["1"], "--time-budget": ["1m"], "--no-speed": [], "--out": ["there"],
        "--junit": ["j.xml"], "--markdown": ["s.md"], "--force": [], "--recipe": ["good.toml"], "--trust-pickle": [],
    },
    "baseline set": {
        **_DATA, **_OUTPUT,
        "--metric": ["f1"], "--batch-sizes": ["1,4"], "--threads": ["1"], "--no-speed": [], "--out": ["there.json"],
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
    **{
        ("bench", option): _TO_SERVER
        for option in ("--protocol", "--model", "--header", "--timeout", "--predict", "--no-predict")
    },
}
"""What an option needs beside it to have an effect."""
BEFORE["bench", "--predict"] = [*_TO_SERVER, "--no-predict"]


# --- what the workflows are replaced by ---------------------------------------------------------------------------------


def gate_verdict() -> GateVerdict:
    side = ComparedModel(name="a", source="a.onnx", digest="d", runtime="onnxruntime", size_bytes=1)
    return GateVerdict(
        verdict="pass", candidate=side, baseline=side, samples=10, data="a.npz", confidence=0.95, inconclusive="reject",
        deterministic=True, checks=(), machine=manifests.manifest().machine, noise={}, **STAMP,
    )  # fmt: skip


def stored_baseline() -> StoredBaseline:
    return StoredBaseline(
        name="a", source="a.onnx", digest="d" * 64, runtime="onnxruntime", runtime_fields={}, inputs=("x",), outputs=("y",),
        data="a.npz", samples="s", count=10, calibration=0, evaluation=10, seed=0, rows={}, size_bytes=1,
        speed=(Speed(batch=1, figures={"p50": 1.0, "p99": 2.0}, growth={}),), machine=manifests.manifest().machine, **STAMP,
    )  # fmt: skip


def explanation() -> Explanation:
    layers = tuple(Layer(name=name, kind="MatMul", sqnr_db=30.0, ms=1.0, float_ms=2.0, quantized=True) for name in "ab")
    return Explanation(
        model="m", candidate="onnxruntime-int8", runtime="onnxruntime", batch=1, total_ms=2.0, reference_ms=4.0,
        layers=layers, passes=(), machine="a CPU",
    )  # fmt: skip


def benchmark() -> Benchmark:
    batching = manifests.manifest().batching
    return Benchmark(name="m", chosen="onnxruntime-int8", profile=profile(), batching=batching, p99_ms=None)


def sizing() -> Sizing:
    return Sizing(
        name="m", rate=100, mean_rate=100, p99_ms=None, max_utilization=0.8, spare_replicas=1, arrivals="Poisson arrivals",
        measured_on="a CPU", noise={}, options=(), recommended=None, why="nothing holds it",
        gpu=GpuVerdict(answer="not known", sentence="It is not known."), autoscaling=None, **STAMP,
    )  # fmt: skip


def plan() -> SimpleNamespace:
    """As much of a plan as is printed."""
    printable = SimpleNamespace(model_dump=lambda mode: {}, name="cpu", tolerance="1%", inputs=(), outputs=())
    return SimpleNamespace(
        recipe=printable, target=printable, signature=printable, metric="accuracy", data={}, candidates=()
    )  # fmt: skip


RESULTS: dict[str, Any] = {
    "mopt.workflows.build.build": lambda: Artifact(Path("m.mopt"), manifests.manifest(), False),
    "mopt.workflows.build.explain_plan": plan,
    "mopt.workflows.explain.explain": explanation,
    "mopt.workflows.gate.run_gate": gate_verdict,
    "mopt.workflows.baseline.make_baseline": stored_baseline,
    "mopt.workflows.rebuild.rebuild": lambda: manifests.manifest(target={"name": "nvidia-l4", "description": "an L4"}),
    "mopt.workflows.bench.bench_artifact": benchmark,
    "mopt.workflows.bench_server.bench_server": lambda: ServerBenchmark(server="s", protocol="p", p99_ms=None, tests=()),
    "mopt.workflows.size.size": sizing,
    "mopt.workflows.size.read_profiled_models": lambda: [SimpleNamespace(name="m")],
    "mopt.workflows.bench.read_samples": lambda: ["samples"],
    "mopt.workflows.verify.verify": lambda: Verification(
        ok=True, problems=(), warnings=(), files=1, samples=1, summary="", largest_difference={}
    ),
    "mopt.reports.gate.render_html": lambda: "<p>gate",
    "mopt.reports.sizing.render_sizing": lambda: "<p>sizing",
}


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the workflows are given, in order; nothing of them is run."""
    calls: list[str] = []

    def replace(place: str, make: Any) -> None:
        def note(*arguments: Any, **named: Any) -> Any:
            calls.append(f"{place} {_text(arguments)} {_text(named)}")
            return make()

        monkeypatch.setattr(place, note)

    for place, make in RESULTS.items():
        replace(place, make)
    monkeypatch.setattr(sys, "argv", ["mopt"])
    return calls


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str({name: "no progress" if isinstance(inner, Silent) else _text(inner) for name, inner in value.items()})
    return str([_text(inner) for inner in value]) if isinstance(value, tuple | list) else _plain(value)


def _plain(value: Any) -> str:
    """Without the address of an object in memory."""
    text = repr(value)
    return type(value).__name__ if " object at 0x" in text else text


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


def test_every_command_with_progress_can_be_quiet_and_every_result_is_json():
    for words, _ in _commands():
        names = {option.name for option in OPTIONS if option.command == words}
        source = Path(sys.modules["mopt.cli." + words.split()[0]].__file__).read_text()
        assert "--json" in names
        assert ("--quiet" in names) == ("shown_progress" in source and words != "baseline show")
