"""The step of ``action.yml``, run as GitHub's runner runs it: with bash, and a real or a recorded mopt on the PATH."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import digits

ROOT = Path(__file__).parents[2]
PROGRAMS = str(Path(sys.executable).parent)
NASTY = {
    "quotes": """a'b"c""",
    "substitution": "$(touch broken)",
    "backticks": "`touch broken`",
    "separator": "x; touch broken",
    "option": "--trust-pickle",
    "variable": "$HOME ${IFS}",
    "spaces": "  two  words ",
    "expression": "${{ github.token }}",
    "command": "::error::x",
    "glob": "*",
    "accent": "modèle-模型.onnx",
}


@pytest.fixture(scope="module")
def action():
    yaml = pytest.importorskip("ruamel.yaml")
    return yaml.YAML(typ="safe").load(ROOT / "action.yml")


def step_of(action):
    return next(step for step in action["runs"]["steps"] if step.get("id") == "mopt")


def run_step(action, folder, inputs, path=None):
    """Run the step of the action: expressions filled in, the script in a file, bash as GitHub calls it."""
    step = step_of(action)
    assert set(inputs) <= set(action["inputs"])
    values = {name: str(spec.get("default", "")) for name, spec in action["inputs"].items()} | inputs
    environment = {
        variable: values[re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", expression)[1]]
        for variable, expression in step["env"].items()
    }
    script = folder / "step.sh"
    script.write_text(step["run"])
    files = {name: str(folder / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    return subprocess.run(
        [shutil.which("bash"), "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        env={
            **os.environ, **environment, **files, "GITHUB_ACTIONS": "true", "CI": "true",
            "GITHUB_ACTION_PATH": str(ROOT), "PATH": path or f"{PROGRAMS}:{os.environ['PATH']}",
        },
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def outputs(folder):
    """What the step set, read as the runner reads it."""
    values, lines = {}, (folder / "github_output").read_text().split("\n")
    while lines and lines[0]:
        name, mark = lines.pop(0).split("<<")
        end = lines.index(mark)
        values[name], lines = "\n".join(lines[:end]), lines[end + 1 :]
    return values


def annotations(done):
    """What GitHub takes from the log as commands: nothing while it was told to stop."""
    taken, token = [], None
    for line in done.stdout.splitlines():
        if token is not None:
            token = None if line == f"::{token}::" else token
        elif line.startswith("::stop-commands::"):
            token = line.removeprefix("::stop-commands::")
        elif line.lstrip().startswith("::"):
            taken.append(line)
    return taken


@pytest.fixture
def recorded(tmp_path):
    """Return a function that puts a mopt on the PATH which notes its arguments and then does what it is told."""

    def make(code=0, prints="", complains="", files=None):
        stub = tmp_path / "bin" / "mopt"
        stub.parent.mkdir()
        stub.write_text(
            f"#!{sys.executable}\n"
            "import json, pathlib, sys\n"
            "pathlib.Path('arguments.json').write_text(json.dumps(sys.argv[1:]))\n"
            f"for name, text in {files or {}!r}.items():\n"
            "    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)\n"
            "    pathlib.Path(name).write_text(text)\n"
            f"sys.stdout.write({prints!r})\n"
            f"sys.stderr.write({complains!r})\n"
            f"sys.exit({code})\n"
        )
        stub.chmod(0o755)
        return f"{stub.parent}:{PROGRAMS}:{os.environ['PATH']}"

    return make


def arguments(folder):
    return json.loads((folder / "arguments.json").read_text())


# --- inputs -------------------------------------------------------------------------------------------------------------


def test_no_input_is_a_part_of_a_script(action):
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"]


def test_every_input_reaches_the_script_and_every_output_comes_from_it(action):
    expected = {f"INPUT_{name.upper().replace('-', '_')}": f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    del expected["INPUT_INSTALL"]
    assert step_of(action)["env"] == expected
    for name, spec in action["outputs"].items():
        assert spec["value"] == f"${{{{ steps.mopt.outputs.{name} }}}}"


@pytest.mark.slow
def test_an_input_says_which_commands_it_is_for(action, tmp_path, recorded):
    """And has an effect on these: it is among the arguments; on the others it is an error."""
    path = recorded()
    subjects = {"build": "model", "gate": "candidate", "size": "artifacts"}
    general = {"command", "arguments", "out", "install"}
    for name in set(action["inputs"]) - general:
        commands = action["inputs"][name]["description"].split(":")[0].split(", ")
        for command, subject in subjects.items():
            (tmp_path / "arguments.json").unlink(missing_ok=True)
            done = run_step(action, tmp_path, {"command": command, subject: "subject", name: "given"}, path)
            if command in commands:
                assert [each for each in arguments(tmp_path) if each.removeprefix("--").split("=")[-1] == "given"], name
            else:
                assert done.returncode == 2
                assert annotations(done) == [
                    f"::error title=mopt {command}::the input {name} has no effect on mopt {command}; leave it out"
                ]
                assert not (tmp_path / "arguments.json").exists()


def test_arguments_of_a_build(action, tmp_path, recorded):
    inputs = {
        "command": "build", "model": "model.onnx", "recipe": "mopt.toml", "data": "d.npz", "metric": "accuracy",
        "tolerance": "0.5pp", "inconclusive": "reject", "time-budget": "20m", "target": "here", "rate": "1000", "p99": "100ms",
        "arguments": "--spare\n2\n\n--name=x y\n", "out": "new.mopt",
    }  # fmt: skip
    run_step(action, tmp_path, inputs, recorded(code=2))
    assert arguments(tmp_path) == [
        "build", "--recipe=mopt.toml", "--data=d.npz", "--metric=accuracy", "--tolerance=0.5pp", "--inconclusive=reject",
        "--time-budget=20m", "--target=here", "--rate=1000", "--p99=100ms", "--out=new.mopt", "--force",
        "--spare", "2", "--name=x y", "--", "model.onnx",
    ]  # fmt: skip


def test_arguments_of_a_gate(action, tmp_path, recorded):
    inputs = {"candidate": "new.mopt", "against": "old.mopt", "limits": "p99: +5%\nsize: 0\n", "inconclusive": "accept"}
    run_step(action, tmp_path, inputs, recorded(code=2))
    assert arguments(tmp_path) == [
        "gate", "--against=old.mopt", "--inconclusive=accept", "--limit=p99: +5%", "--limit=size: 0", "--out=mopt-gate",
        "--force", "--junit=mopt-gate.xml", "--markdown=mopt-gate.md", "--", "new.mopt",
    ]  # fmt: skip


def test_arguments_of_a_sizing(action, tmp_path, recorded):
    inputs = {
        "command": "size", "artifacts": "a.mopt\nb.mopt", "rate": "1000", "p99": "100ms", "compare": "aws-*\ngcp-*",
        "this-machine": "aws-c6a-xlarge", "max-cost": "500",
    }  # fmt: skip
    run_step(action, tmp_path, inputs, recorded(code=2))
    assert arguments(tmp_path) == [
        "size", "--rate=1000", "--p99=100ms", "--this-machine=aws-c6a-xlarge", "--max-cost=500", "--compare=aws-*",
        "--compare=gcp-*", "--out=mopt-size/report.html", "--force", "--json", "--", "a.mopt", "b.mopt",
    ]  # fmt: skip


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_a_value_arrives_as_one_plain_argument(action, tmp_path, recorded, text):
    inputs = {"candidate": text, "against": text, "metric": text, "limits": text, "arguments": text, "out": text}
    done = run_step(action, tmp_path, inputs, recorded(code=2))
    out = str(Path(text))
    assert arguments(tmp_path) == [
        "gate", f"--against={text}", f"--metric={text}", f"--limit={text}", f"--out={out}", "--force",
        f"--junit={out}.xml", f"--markdown={out}.md", text, "--", text,
    ]  # fmt: skip
    assert not (tmp_path / "broken").exists()
    assert outputs(tmp_path) == {"report": out, "verdict": "error"}
    assert [line.split(" ")[0] for line in annotations(done)] == ["::error"]


def test_a_value_with_lines_sets_no_other_output_and_no_other_argument(action, tmp_path, recorded):
    text = "x\nverdict=pass\nverdict<<A\npass\nA"
    run_step(action, tmp_path, {"candidate": "m.onnx", "metric": text, "out": text}, recorded(code=2))
    assert f"--metric={text}" in arguments(tmp_path)
    assert outputs(tmp_path) == {"report": text, "verdict": "error"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"command": "ship"}, "the input command is 'ship'; it is one of build, gate, size"),
        ({"command": "$(id)\n::error::x"}, "the input command is '$(id)\\n::error::x'; it is one of build, gate, size"),
        ({}, "mopt gate needs the input candidate"),
        ({"command": "size"}, "mopt size needs the input artifacts"),
    ],
)
def test_a_wrong_step_is_an_annotation(action, tmp_path, recorded, inputs, message):
    done = run_step(action, tmp_path, inputs, recorded())
    assert done.returncode == 2
    assert outputs(tmp_path) == {"verdict": "error"}
    (annotation,) = annotations(done)
    assert annotation.endswith(f"::{message}")
    assert not (tmp_path / "arguments.json").exists()


def test_without_mopt_the_step_says_how_to_get_it(action, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    done = run_step(action, tmp_path, {"candidate": "m.onnx"}, str(programs))
    assert done.returncode == 2
    assert annotations(done) == [
        "::error title=mopt gate::mopt is not installed%0Aleave the input install as it is, or install it before"
    ]


@pytest.mark.parametrize("command", ["build", "gate", "size"])
def test_the_command_has_every_option_that_the_action_gives(action, tmp_path, recorded, command):
    subject = {"build": "model", "gate": "candidate", "size": "artifacts"}[command]
    inputs = {
        name: "given" for name, spec in action["inputs"].items() if command in spec["description"].split(":")[0].split(", ")
    }  # fmt: skip
    run_step(action, tmp_path, inputs | {"command": command, subject: "subject"}, recorded(code=2))
    options = {each.partition("=")[0] for each in arguments(tmp_path) if each.startswith("--")} - {"--"}
    shown = subprocess.run(
        [sys.executable, "-m", "mopt", command, "--help"], capture_output=True, text=True, timeout=60, check=True
    )  # fmt: skip
    assert {option for option in options if not re.search(rf"{option}\b", shown.stdout)} == set()


# --- results ------------------------------------------------------------------------------------------------------------

MANIFEST = {
    "deployable": True, "not_deployable_because": "", "chosen": "openvino-int8",
    "trials": [
        {"name": "reference", "profile": {"batches": [{"batch": 1, "p50": {"value": 8.0}, "ratio": None}]}},
        {
            "name": "openvino-int8",
            "profile": {
                "batches": [
                    {"batch": 8, "p50": {"value": 9.0}, "ratio": {"value": 3.5}},
                    {"batch": 1, "p50": {"value": 3.9}, "ratio": {"value": 2.0512}},
                ]
            },
        },
    ],
    "batching": {"rate": 1000.0, "replicas": 3, "p99": {"value": 41.26}},
}  # fmt: skip


def built(manifest):
    return {"model.mopt/manifest.json": json.dumps(manifest), "model.mopt/report.md": "# the report\n"}


def test_a_build_sets_what_was_chosen(action, tmp_path, recorded):
    done = run_step(action, tmp_path, {"command": "build", "model": "m.onnx"}, recorded(files=built(MANIFEST)))
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path) == {
        "verdict": "pass", "report": "model.mopt", "artifact": "model.mopt", "chosen": "openvino-int8", "speedup": "2.051",
        "replicas": "3", "p99-ms": "41.26",
    }  # fmt: skip
    assert annotations(done) == ["::notice title=mopt build::openvino-int8, 2.051 times as fast as the reference"]
    assert (tmp_path / "github_step_summary").read_text() == "# the report\n\n"


def test_a_build_without_a_rate_has_no_replicas(action, tmp_path, recorded):
    manifest = MANIFEST | {"batching": {"rate": None, "replicas": 1, "p99": None}, "chosen": "reference"}
    run_step(action, tmp_path, {"command": "build", "model": "m.onnx"}, recorded(files=built(manifest)))
    assert outputs(tmp_path) == {
        "verdict": "pass", "report": "model.mopt", "artifact": "model.mopt", "chosen": "reference", "speedup": "1",
    }  # fmt: skip


def test_a_build_that_nobody_timed_has_no_speedup(action, tmp_path, recorded):
    untimed = [{"name": "reference", "profile": None}, {"name": "openvino-int8", "profile": None}]
    done = run_step(
        action, tmp_path, {"command": "build", "model": "m.onnx"}, recorded(files=built(MANIFEST | {"trials": untimed}))
    )
    assert outputs(tmp_path)["speedup"] == ""
    assert annotations(done) == ["::notice title=mopt build::openvino-int8"]


def test_a_build_that_must_not_be_deployed_is_a_warning(action, tmp_path, recorded):
    manifest = MANIFEST | {"deployable": False, "not_deployable_because": "made-up data"}
    done = run_step(action, tmp_path, {"command": "build", "model": "m.onnx"}, recorded(files=built(manifest)))
    assert outputs(tmp_path)["verdict"] == "fail"
    assert annotations(done) == ["::warning title=mopt build::not deployable: made-up data"]


def option(target, price, excluded=""):
    def exactly(value):
        return {"value": value, "low": value, "high": value}

    return {
        "target": target, "precision": "openvino-int8", "origin": "projected", "excluded": excluded,
        "replicas": None if excluded else {"value": 3, "low": 2, "high": 4},
        "p99_ms": None if excluded else exactly(41.26), "monthly_usd": None if excluded else exactly(price),
    }  # fmt: skip


SIZING = {
    "name": "model|x", "rate": 1000.0, "recommended": 1, "why": "the cheapest that holds", "warnings": ["one <b>thing</b>"],
    "options": [option("gcp-c3", 300.0), option("aws-c6a", 212.4), option("azure-d4", 0, "too slow")],
}  # fmt: skip


def test_a_sizing_sets_the_machine_and_its_price(action, tmp_path, recorded):
    done = run_step(action, tmp_path, {"command": "size", "artifacts": "m.mopt"}, recorded(prints=json.dumps(SIZING)))
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path) == {
        "verdict": "pass", "report": "mopt-size", "machine": "aws-c6a", "chosen": "openvino-int8", "replicas": "3",
        "p99-ms": "41.26", "monthly-usd": "212.40",
    }  # fmt: skip
    assert json.loads((tmp_path / "mopt-size" / "sizing.json").read_text()) == SIZING
    assert annotations(done) == [
        "::notice title=mopt size::3 x aws-c6a with openvino-int8, $212 a month: the cheapest that holds"
    ]
    summary = (tmp_path / "github_step_summary").read_text()
    assert "## mopt size: model\\|x" in summary
    assert "| aws-c6a | openvino-int8 | projected | 3 (2 to 4) | 41.3 ms | $212 |  |" in summary
    assert "one \\<b\\>thing\\</b\\>" in summary
    assert summary.index("aws-c6a |") < summary.index("gcp-c3 |") < summary.index("azure-d4 |")


def test_a_sizing_that_finds_nothing_is_a_warning(action, tmp_path, recorded):
    sizing = SIZING | {"recommended": None, "why": "all are too slow"}
    done = run_step(action, tmp_path, {"command": "size", "artifacts": "m.mopt"}, recorded(prints=json.dumps(sizing)))
    assert outputs(tmp_path) == {"verdict": "fail", "report": "mopt-size"}
    assert annotations(done) == [
        "::warning title=mopt size::nothing holds 1000 requests per second: all are too slow"
    ]  # fmt: skip


def test_the_records_have_the_fields_that_the_action_reads():
    from mopt.records.manifest import Manifest
    from mopt.records.sizing import Sizing

    schema = Manifest.model_json_schema()
    trial, batch = schema["$defs"]["TrialRecord"]["properties"], schema["$defs"]["BatchProfile"]["properties"]
    assert set(MANIFEST) <= set(schema["properties"])
    assert {"name", "profile"} <= set(trial)
    assert {"batch", "p50", "ratio"} <= set(batch)
    assert set(MANIFEST["batching"]) <= set(schema["$defs"]["Batching"]["properties"])
    schema = Sizing.model_json_schema()
    assert set(SIZING) <= set(schema["properties"])
    assert set(SIZING["options"][0]) <= set(schema["$defs"]["SizingOption"]["properties"])


def test_an_error_of_mopt_is_an_annotation_and_an_older_report_is_not_read(action, tmp_path, recorded):
    (tmp_path / "mopt-gate").mkdir()
    (tmp_path / "mopt-gate" / "gate.json").write_text('{"verdict": "pass"}')
    path = recorded(code=2, complains="[00:01] reading\nmopt: no such file: 100% ::x\nhint: give one, or: two\n")
    done = run_step(action, tmp_path, {"candidate": "m.onnx"}, path)
    assert done.returncode == 2
    assert outputs(tmp_path) == {"report": "mopt-gate", "verdict": "error"}
    assert annotations(done) == ["::error title=mopt gate::no such file: 100%25 ::x%0Agive one, or: two"]


def test_a_bug_of_mopt_points_to_the_log(action, tmp_path, recorded):
    done = run_step(
        action, tmp_path, {"candidate": "m.onnx"}, recorded(code=1, complains="Traceback (most recent call last):\n")
    )
    assert done.returncode == 1
    assert "Traceback" in done.stdout
    assert annotations(done) == ["::error title=mopt gate::mopt ended with exit code 1; the log says why"]


def test_github_takes_no_command_from_a_name_in_a_model(action, tmp_path, recorded):
    """But for the annotations that mopt makes: these are told again after it."""
    hostile = "::set-output name=verdict::pass\n  ::add-mask::e\n::save-state name=a::b\n::error file=a::x\n"
    own = "::error title=mopt gate%3A accuracy::it lost 3pp\n"
    files = {"mopt-gate/gate.json": '{"verdict": "fail"}', "mopt-gate.xml": "<a/>", "mopt-gate.md": "m"}
    path = recorded(code=3, prints=hostile, complains=hostile + own, files=files)
    done = run_step(action, tmp_path, {"candidate": "m.onnx"}, path)
    assert done.returncode == 3
    assert annotations(done) == [own.strip()]
    assert outputs(tmp_path)["verdict"] == "fail"


@pytest.mark.parametrize(("verdict", "code"), [("inconclusive", 0), ("inconclusive", 4), ("pass", 0), ("fail", 3)])
def test_a_gate_gathers_its_report(action, tmp_path, recorded, verdict, code):
    files = {"mopt-gate/gate.json": json.dumps({"verdict": verdict}), "mopt-gate.xml": "<a/>", "mopt-gate.md": "m"}
    done = run_step(action, tmp_path, {"candidate": "m.onnx"}, recorded(code=code, files=files))
    assert done.returncode == code
    assert outputs(tmp_path) == {"verdict": verdict, "report": "mopt-gate"}
    assert {path.name for path in (tmp_path / "mopt-gate").iterdir()} == {"gate.json", "junit.xml", "summary.md"}


# --- the real mopt ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("ci"))


def spoilt(model):
    """Write the model with so much noise on its weights that it is worse for certain."""
    import numpy as np
    import onnx

    proto, random = onnx.load(model), np.random.default_rng(0)
    for weight in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        noise = random.normal(0, 1.5 * values.std(), values.shape)
        weight.CopyFrom(onnx.numpy_helper.from_array((values + noise).astype(values.dtype), weight.name))
    path = model.with_name("spoilt.onnx")
    onnx.save(proto, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("worse", "code", "verdict"), [(False, 0, "pass"), (True, 3, "fail")])
def test_a_real_gate(action, small, tmp_path, worse, code, verdict):
    candidate = spoilt(small.model) if worse else small.model
    inputs = {
        "candidate": str(candidate), "against": str(small.model), "data": str(small.data), "limits": "size: +10%",
        "arguments": "--no-speed",
    }  # fmt: skip
    done = run_step(action, tmp_path, inputs)
    assert done.returncode == code, done.stdout
    assert outputs(tmp_path) == {"verdict": verdict, "report": "mopt-gate"}
    report = tmp_path / "mopt-gate"
    assert {"report.html", "gate.json", "junit.xml", "summary.md"} <= {path.name for path in report.iterdir()}
    assert json.loads((report / "gate.json").read_text())["verdict"] == verdict
    assert (tmp_path / "github_step_summary").read_text().count(f"mopt gate: {verdict}") == 1
    assert any(line.startswith("::error title=mopt gate%3A accuracy::") for line in annotations(done)) is worse


def test_a_real_error(action, tmp_path):
    inputs = {"candidate": "$(touch broken); x.onnx", "against": "y.onnx", "data": "x.npz"}
    done = run_step(action, tmp_path, inputs)
    assert done.returncode == 2
    assert not (tmp_path / "broken").exists()
    assert outputs(tmp_path)["verdict"] == "error"
    (annotation,) = annotations(done)
    assert annotation.startswith("::error title=mopt gate::")
    assert "$(touch broken); x.onnx" in annotation
