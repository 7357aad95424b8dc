import contextlib
import json
import shutil
import subprocess
import tarfile
import xml.etree.ElementTree as ElementTree

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from PIL import Image
from typer.testing import CliRunner

from mopt.cli import app
from mopt.errors import CheckFailedError, CheckInconclusiveError, UserError
from mopt.recipe import make_recipe
from mopt.records.verdict import GateVerdict
from mopt.system.store import Store
from mopt.workflows.gate import run_gate
from tests import models
from tests.small import digits


@pytest.fixture(scope="module")
def junit_schema(tmp_path_factory):
    """The schema of Jenkins' xUnit plugin, which pytest keeps in its source archive to test its own reports."""
    xmlschema = pytest.importorskip("xmlschema")
    folder = tmp_path_factory.mktemp("schema")
    try:
        archive = models.source_archive("pytest==8.4.2", folder)
    except models.UnavailableError as error:
        pytest.skip(str(error))
    with tarfile.open(archive) as files:
        (member,) = (name for name in files.getnames() if name.endswith("junit-10.xsd"))
        (folder / "junit.xsd").write_bytes(files.extractfile(member).read())
    return xmlschema.XMLSchema(str(folder / "junit.xsd"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The model, its samples with a column to slice by, and worse versions of it."""
    folder = tmp_path_factory.mktemp("gate")
    found = digits(folder)
    with np.load(found.data) as arrays:
        columns = dict(arrays)
    half = len(columns["label"]) // 2
    columns["writer"] = np.array(["ann"] * half + ["bob"] * (len(columns["label"]) - half))
    np.savez(found.data, **columns)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One cache for all: what the good model answers is computed once."""
    return Store(tmp_path_factory.mktemp("cache"))


def variant(small, name, change):
    model = onnx.load(small.model)
    change(model.graph)
    path = small.model.with_name(f"{name}.onnx")
    onnx.save(model, path)
    return path


def scaled(name, factor):
    def change(graph):
        for weight in graph.initializer:
            if weight.name == name:
                values = onnx.numpy_helper.to_array(weight)
                weight.CopyFrom(onnx.numpy_helper.from_array((values * factor).astype(np.float32), name))

    return change


def noisy(share):
    def change(graph):
        random = np.random.default_rng(0)
        for weight in graph.initializer:
            if weight.name.startswith("w"):
                values = onnx.numpy_helper.to_array(weight)
                noise = random.standard_normal(values.shape) * values.std() * share
                weight.CopyFrom(onnx.numpy_helper.from_array((values + noise).astype(np.float32), weight.name))

    return change


def without_class(number):
    """The bias of a class so low that it is never the answer."""

    def change(graph):
        for weight in graph.initializer:
            if weight.name == "b2":
                values = onnx.numpy_helper.to_array(weight).copy()
                values[number] = -1e3
                weight.CopyFrom(onnx.numpy_helper.from_array(values, "b2"))

    return change


def appended(*nodes):
    """Put operators between the last one and the output."""

    def change(graph):
        last = next(node for node in graph.node if "scores" in node.output)
        last.output[0] = "raw"
        graph.node.extend(nodes)

    return change


RANDOM = (
    onnx.helper.make_node("RandomNormalLike", ["raw"], ["noise"], scale=0.5),
    onnx.helper.make_node("Add", ["raw", "noise"], ["scores"]),
)
NAN = (onnx.helper.make_node("Sub", ["raw", "raw"], ["zero"]), onnx.helper.make_node("Div", ["raw", "zero"], ["scores"]))


def gate(candidate, against, small, store, *, speed=False, everything=True, out=None, data=None, **values) -> GateVerdict:
    own = {"model": str(candidate), "data": {"path": str(data or small.data)}, **values}
    recipe = make_recipe(own)
    return run_gate(str(candidate), str(against), recipe, use_all_samples=everything, speed=speed, out=out, store=store)


def quality(found):
    return next(check for check in found.checks if check.kind == "quality")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


# --- quality ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_passes_against_itself(small, store):
    found = gate(small.model, small.model, small, store)
    assert found.verdict == "pass"
    assert found.deterministic
    assert [check.name for check in found.checks] == ["accuracy", "size"]
    check = quality(found)
    assert (check.lost, check.gained) == (0, 0)
    assert check.change.value == 0
    assert check.change.count == 600
    assert check.power == pytest.approx(1.0)


@pytest.mark.slow
def test_a_model_that_is_worse_fails_with_its_samples(small, store, tmp_path):
    found = gate(variant(small, "noisy", noisy(1.5)), small.model, small, store, out=tmp_path)
    assert found.verdict == "fail"
    check = quality(found)
    assert check.change.high < check.allowed
    assert check.p_value < 0.001
    assert found.worst
    first = found.worst[0]
    assert first.loss == 1
    assert {path.name for path in (tmp_path / first.folder).iterdir()} == {"inputs.npz", "candidate.npz", "baseline.npz"}
    with np.load(tmp_path / first.folder / "inputs.npz") as inputs, np.load(small.data) as arrays:
        assert any(np.array_equal(inputs["pixels"][0], row) for row in arrays["pixels"])


@pytest.mark.slow
def test_few_samples_leave_it_open_and_say_how_many_would_decide(small, store):
    worse = variant(small, "bit", noisy(0.12))
    found = gate(worse, small.model, small, store, tolerance="0.1%")
    assert found.verdict == "inconclusive"
    check = quality(found)
    assert check.change.low < check.allowed <= check.change.high


@pytest.mark.slow
def test_equal_models_pass_a_tolerance_that_the_samples_can_prove_and_no_other(small, store):
    assert gate(small.model, small.model, small, store, tolerance="1pp").verdict == "pass"
    found = gate(small.model, small.model, small, store, tolerance="0.1pp")
    assert found.verdict == "inconclusive"
    needed = quality(found).needed
    # Without a discordant sample 1 - 0.05 ** (1 / n) <= 0.001.
    assert needed == pytest.approx(2995, abs=3)


@pytest.mark.slow
def test_a_model_that_answers_nan_fails_with_the_reason(small, store):
    found = gate(variant(small, "nan", appended(*NAN)), small.model, small, store)
    assert found.verdict == "fail"
    assert "NaN" in found.checks[0].note


@pytest.mark.slow
def test_a_model_that_differs_from_itself_is_judged_as_a_distribution(small, store):
    random = variant(small, "random", appended(*RANDOM))
    found = gate(random, random, small, store, tolerance="5pp")
    assert not found.deterministic
    assert any("differently each time" in warning for warning in found.warnings)
    assert found.verdict == "pass"
    check = quality(found)
    assert check.change.count == 3 * 600
    assert "by groups" in check.method


@pytest.mark.slow
def test_a_random_model_that_is_worse_fails_too(small, store):
    def both(graph):
        noisy(2.0)(graph)
        appended(*RANDOM)(graph)

    random = variant(small, "random", appended(*RANDOM))
    assert gate(variant(small, "random-noisy", both), random, small, store).verdict == "fail"


@pytest.mark.slow
def test_models_with_other_inputs_cannot_be_compared(small, store):
    def renamed(graph):
        graph.output[0].name = "answer"
        for node in graph.node:
            node.output[:] = ["answer" if name == "scores" else name for name in node.output]

    with pytest.raises(UserError, match="outputs of the candidate are scores"):
        gate(small.model, variant(small, "renamed", renamed), small, store)


@pytest.mark.slow
def test_several_metrics_have_limits_of_their_own(small, store):
    limits = {"f1": "-1pp", "fidelity": "90%"}
    found = gate(variant(small, "noisy", noisy(1.5)), small.model, small, store, tolerance="90%", gate={"limits": limits})
    verdicts = {check.name: check.verdict for check in found.checks if check.kind == "quality"}
    assert verdicts == {"accuracy": "pass", "f1": "fail", "fidelity": "pass"}


@pytest.mark.slow
def test_without_labels_the_outputs_are_compared(small, store, tmp_path):
    with np.load(small.data) as arrays:
        np.savez(tmp_path / "plain.npz", pixels=arrays["pixels"])
    found = gate(variant(small, "noisy", noisy(1.5)), small.model, small, store, data=tmp_path / "plain.npz")
    assert quality(found).name == "expected_accuracy"
    assert quality(found).method == "not held"
    assert found.verdict == "fail"
    assert {"scores.cosine", "scores.snr_db", "scores.kl", "scores.top1"} <= set(found.fidelity)
    assert found.worst[0].distance > 0


# --- slices -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_slice_that_is_harmed_fails_the_gate_though_the_whole_does_not(small, store):
    blind = variant(small, "blind", without_class(8))
    found = gate(blind, small.model, small, store, tolerance="20%", gate={"slices": ["label"], "slice_tolerance": "20%"})
    assert quality(found).verdict == "pass"
    failed = [check.name for check in found.checks if check.kind == "slice" and check.verdict == "fail"]
    assert failed == ["label=8"]
    assert found.verdict == "fail"


@pytest.mark.slow
def test_slices_by_a_column_have_tolerances_of_their_own(small, store):
    options = {"slices": ["writer"], "slice_tolerances": {"writer=bob": "100%"}}
    found = gate(variant(small, "noisy", noisy(1.5)), small.model, small, store, tolerance="5%", gate=options)
    slices = {check.name: check for check in found.checks if check.kind == "slice"}
    assert set(slices) == {"writer=ann", "writer=bob"}
    assert slices["writer=ann"].verdict == "fail"
    assert slices["writer=bob"].verdict == "pass"


@pytest.mark.slow
def test_a_slice_that_is_not_there_is_named(small, store):
    with pytest.raises(UserError, match="no column writter"):
        gate(small.model, small.model, small, store, gate={"slices": ["writter"]})
    with pytest.raises(UserError, match="no slice writer=eve"):
        gate(small.model, small.model, small, store, gate={"slices": ["writer"], "slice_tolerances": {"writer=eve": "1%"}})


@pytest.mark.slow
def test_an_open_slice_counts_only_when_it_is_asked_for(small, store):
    options = {"slices": ["label"], "slice_tolerance": "0.5%"}
    found = gate(small.model, small.model, small, store, gate=options)
    assert all(check.verdict == "inconclusive" for check in found.checks if check.kind == "slice")
    assert found.verdict == "pass"
    assert gate(small.model, small.model, small, store, gate=options | {"strict_slices": True}).verdict == "inconclusive"


# --- costs --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_costs_are_compared_and_a_slower_larger_model_fails(small, store):
    def slower(graph):
        nodes = []
        for index in range(60):
            given = "raw" if index == 0 else f"e{index}"
            nodes.append(onnx.helper.make_node("Softmax", [given], [f"s{index}"]))
            nodes.append(onnx.helper.make_node("Add", [given, f"s{index}"], [f"e{index + 1}"]))
        nodes.append(onnx.helper.make_node("Identity", ["e60"], ["scores"]))
        appended(*nodes)(graph)
        graph.doc_string = "x" * 50_000

    found = gate(
        variant(small, "slower", slower), small.model, small, store, speed=True, tolerance="90%",
        gate={"limits": {"p50": "+50%", "size": "+1%", "memory": "+100%"}, "time_budget": "10s", "batch_sizes": [1]},
    )  # fmt: skip
    checks = {check.name: check for check in found.checks}
    assert checks["p50 at batch 1"].verdict == "fail"
    assert checks["size"].verdict == "fail"
    assert checks["memory"].verdict == "pass"
    assert checks["p99 at batch 1"].counts is False
    assert found.spread > 0
    assert "pairs of processes" in checks["p50 at batch 1"].method


@pytest.mark.slow
def test_the_same_model_costs_the_same(small, store):
    found = gate(small.model, small.model, small, store, speed=True, gate={"limits": {"p50": "+100%"}, "time_budget": "8s"})
    assert "fail" not in {check.verdict for check in found.checks if check.counts}
    assert {check.name for check in found.checks} >= {"load time", "first inference", "memory", "size", "throughput at batch 8"}


def test_a_limit_on_what_does_not_exist_names_the_nearest(small, store):
    with pytest.raises(UserError, match="nothing is called p999"):
        gate(small.model, small.model, small, store, gate={"limits": {"p999": "1%"}})


# --- baselines ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def baseline(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("baseline") / "mopt-baseline.json"
    assert run("baseline", "set", small.model, "--data", small.data, "--time-budget", "6s", "--out", path).exit_code == 0
    return path


@pytest.mark.slow
def test_a_baseline_stands_for_the_model(small, store, baseline):
    assert baseline.stat().st_size < 100_000
    same = gate(small.model, baseline, small, store)
    assert same.verdict == "pass"
    assert same.baseline.machine is not None
    worse = gate(variant(small, "noisy", noisy(1.5)), baseline, small, store)
    direct = gate(variant(small, "noisy", noisy(1.5)), small.model, small, store)
    assert worse.verdict == "fail"
    assert quality(worse).change == quality(direct).change
    assert worse.fidelity == pytest.approx(direct.fidelity)


@pytest.mark.slow
def test_a_baseline_of_other_samples_is_refused(small, store, baseline, tmp_path):
    with np.load(small.data) as arrays:
        np.savez(tmp_path / "other.npz", pixels=arrays["pixels"][:300], label=arrays["label"][:300])
    with pytest.raises(UserError, match="made from other samples"):
        gate(small.model, baseline, small, store, data=tmp_path / "other.npz")


@pytest.mark.slow
def test_a_baseline_of_another_machine_is_refused_for_speed_and_warned_of(small, store, baseline, tmp_path):
    values = json.loads(baseline.read_text())
    values["machine"] |= {"cpu": "Another CPU", "isa": ["amx_int8"]}
    (tmp_path / "other.json").write_text(json.dumps(values))
    found = gate(small.model, tmp_path / "other.json", small, store, speed=True)
    assert found.verdict == "pass"
    assert any("not compared" in warning for warning in found.warnings)
    assert any("Another CPU" in warning for warning in found.warnings)
    asked = gate(
        small.model, tmp_path / "other.json", small, store, speed=True, gate={"limits": {"p99": "+5%", "size": "0"}}
    )  # fmt: skip
    assert asked.verdict == "inconclusive"
    assert [(check.name, check.verdict) for check in asked.checks if check.limit and check.kind != "quality"] == [
        ("size", "pass"), ("p99", "inconclusive"),
    ]  # fmt: skip


@pytest.mark.slow
def test_speed_is_compared_beside_the_reference_workload(small, store, baseline):
    found = gate(small.model, baseline, small, store, speed=True, gate={"limits": {"p50": "+100%"}, "time_budget": "6s"})
    check = next(check for check in found.checks if check.name == "p50 at batch 1")
    assert check.verdict != "fail", "the same model; on a busy machine the interval may stay too wide to pass"
    assert "reference workload" in check.method


@pytest.mark.slow
def test_a_damaged_baseline_is_refused(small, store, baseline, tmp_path):
    values = json.loads(baseline.read_text())
    values["answers"] = "AAAA"
    (tmp_path / "damaged.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="damaged"):
        gate(small.model, tmp_path / "damaged.json", small, store)
    (tmp_path / "nonsense.json").write_text("{}")
    with pytest.raises(UserError, match="is no baseline"):
        gate(small.model, tmp_path / "nonsense.json", small, store)


@pytest.mark.slow
def test_a_baseline_is_not_overwritten(small, baseline):
    with pytest.raises(UserError, match="exists already"):
        run("baseline", "set", small.model, "--data", small.data, "--out", baseline)
    assert "accuracy" in run("baseline", "show", baseline).output


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_everything_that_ci_wants(small, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    worse = variant(small, "noisy", noisy(1.5))
    arguments = ["--against", small.model, "--data", small.data, "--no-speed", "--slice", "writer"]
    files = ["--out", tmp_path / "report", "--junit", tmp_path / "gate.xml", "--markdown", tmp_path / "gate.md"]
    with pytest.raises(CheckFailedError, match="the gate failed: accuracy"):
        run("gate", worse, *arguments, *files)
    assert GateVerdict.model_validate_json((tmp_path / "report" / "gate.json").read_text()).verdict == "fail"
    assert (tmp_path / "summary.md").read_text().strip() == (tmp_path / "gate.md").read_text().strip()
    assert "mopt gate: fail" in (tmp_path / "gate.md").read_text()
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()[0]
    assert int(suite.get("failures")) >= 1
    with pytest.raises(UserError, match="exists already"):
        run("gate", small.model, *arguments, *files)
    assert run("gate", small.model, *arguments, *files, "--force").exit_code == 0


@pytest.mark.slow
def test_junit_keeps_to_the_schema(small, tmp_path, junit_schema):
    for name, model, limits in (
        ("pass", small.model, []),
        ("fail", variant(small, "noisy", noisy(1.5)), ["--slice", "writer"]),
        ("open", small.model, ["--tolerance", "0.01%"]),
    ):
        arguments = ["--against", small.model, "--data", small.data, "--no-speed", "--junit", tmp_path / f"{name}.xml"]
        with contextlib.suppress(CheckFailedError, CheckInconclusiveError):
            run("gate", model, *arguments, *limits)
        junit_schema.validate(str(tmp_path / f"{name}.xml"))


@pytest.mark.slow
def test_inconclusive_is_what_the_user_says(small):
    arguments = ["gate", small.model, "--against", small.model, "--data", small.data, "--no-speed", "--tolerance", "0.01%"]
    with pytest.raises(CheckInconclusiveError, match="the gate is inconclusive: accuracy"):
        run(*arguments)
    found = run(*arguments, "--inconclusive", "accept", "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout)["verdict"] == "inconclusive"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "p99"], "names no amount"),
        (["--limit", "p99: fast"], "no amount"),
        (["--limit", "p99: 5MB"], "no unit of p99"),
        (["--limit", "accurcy: 1%"], "nothing is called accurcy"),
        (["--limit", "accuracy: +1pp"], "asks for more"),
        (["--tolerance", "lots"], "no amount"),
        (["--junit", "missing/gate.xml"], "no folder missing"),
        (["--data", "missing.npz"], "no such data"),
        (["--data", "random"], "made-up data says nothing"),
        (["--metric", "nope"], "unknown metric"),
    ],
)
def test_nonsense_is_one_line(small, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        run("gate", small.model, "--against", small.model, "--data", small.data, "--no-speed", *arguments)
    assert "\n" not in caught.value.message


def test_nothing_to_compare_with_says_how_to_get_it(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing to compare with") as caught:
        run("gate", small.model, "--data", small.data)
    assert "mopt baseline set" in caught.value.hint


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_in_a_browser(small, tmp_path, scheme):
    worse = variant(small, "noisy", noisy(1.5))
    with pytest.raises(CheckFailedError):
        run("gate", worse, "--against", small.model, "--data", small.data, "--no-speed", "--out", tmp_path / "report")
    page = (tmp_path / "report" / "report.html").as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    flags.append(f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}")
    command = ["chromium", *flags, "--virtual-time-budget=2000"]
    shown = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=90, check=True).stdout
    assert '<h1 class="bad">fail</h1>' in shown
    assert shown.index("<h1") < shown.index("Checks") < shown.index("Where it loses the most")
    assert "<svg" in shown
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", page], capture_output=True, timeout=90, check=True)
    corner = np.asarray(Image.open(picture).convert("L"))[2, 2]
    assert corner < 60 if scheme == "dark" else corner > 200
