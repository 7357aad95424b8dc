import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

import mopt
from mopt.errors import Rejection, UserError
from mopt.workflows import build as build_workflow
from mopt.workflows.verify import verify
from tests.small import digits

pytestmark = pytest.mark.slow

QUICK = ("onnxruntime-int8", "onnxruntime-fp32")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One artifact of the small model, with the cache that made it."""
    folder = tmp_path_factory.mktemp("built")
    small = digits(folder)
    store = mopt_store(folder)
    artifact = build(small, folder / "out", store)
    return small, folder, store, artifact


def mopt_store(folder):
    from mopt.system.store import Store

    return Store(folder / "cache")


def build(small, out, store=None, **values):
    values = {"search": {"candidates": QUICK, "max_batch": 4}, **values}
    return mopt.build(model=str(small.model), data=str(small.data), out=out, store=store, **values)


def test_outputs_that_are_not_twice_the_same_are_random():
    chosen = SimpleNamespace(model=SimpleNamespace(format="onnx"), chosen=SimpleNamespace(effective_precision="fp32"))
    first = {"clean": np.float32([[1, 2]]), "noisy": np.float32([[1, 2]]), "drawn": np.int64([3]), "found": np.zeros((2, 4))}
    second = {
        "clean": np.float32([[1, 2.000001]]),
        "noisy": np.float32([[1, 2.1]]),
        "drawn": np.int64([4]),
        "found": np.zeros((1, 4)),
    }
    golden = build_workflow._golden(chosen, [first, first], [first, second])
    assert golden.random == ("noisy", "drawn", "found")
    assert golden.tolerance.keys() == {"clean"}


def test_the_artifact_holds_what_was_found(built):
    _, _, _, artifact = built
    manifest = artifact.manifest
    assert [trial.name for trial in manifest.trials] == ["reference", *QUICK]
    assert manifest.signature.batch_axes == {"pixels": 0, "scores": 0}
    assert manifest.reference.quality.value > 0.9
    assert manifest.reference.quality.difference == 0
    assert manifest.winner.outcome is None
    for trial in manifest.trials:
        assert (trial.name == manifest.chosen or trial is manifest.reference) == (trial.outcome is None)
    assert [entry.batch for entry in manifest.winner.profile.batches] == [1, 2, 4]
    int8 = next(trial for trial in manifest.trials if trial.name == "onnxruntime-int8")
    assert int8.evidence["integer"]
    assert int8.quality is None or int8.quality.fidelity


def test_what_is_shipped_is_never_slower_than_the_reference(built):
    manifest = built[3].manifest
    if manifest.chosen != "reference":
        assert manifest.winner.profile.batches[0].ratio.low > 1


def test_a_default_build_leaves_what_sizes_other_machines(built):
    manifest = built[3].manifest
    profile = manifest.serving_profile
    batches = manifest.winner.profile.batches
    assert [entry.batch for entry in profile.operators] == sorted({batches[0].batch, batches[-1].batch})
    assert all(entry.operators and entry.total_ms > 0 for entry in profile.operators)


def test_calibration_and_evaluation_are_disjoint_and_counted(built):
    data = built[3].manifest.data
    assert data["calibration"] + data["evaluation"] <= 600


def test_the_files_are_there(built):
    folder = built[3].folder
    for name in ("manifest.json", "report.md", "report.html", "model/model.onnx", "serving/triton"):
        assert (folder / name).exists(), name
    assert not list(folder.parent.glob(".out.*"))


def test_a_second_build_is_taken_from_the_cache_and_is_the_same(built):
    small, folder, store, artifact = built
    start = time.process_time()
    again = build(small, folder / "again", store)
    assert again.cached
    assert time.process_time() - start < 5
    assert again.manifest == artifact.manifest


def test_a_fixed_batch_is_calibrated_judged_and_shipped(built, tmp_path):
    small = built[0]
    model = ir.load(small.model)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape([4, *list(value.shape)[1:]])
    ir.save(model, tmp_path / "fixed.onnx")
    candidates = ("onnxruntime-int8", "onnxruntime-int8-entropy", "openvino-int8", "openvino-fp32-static")
    fixed = type(small)(tmp_path / "fixed.onnx", small.data)
    manifest = build(fixed, tmp_path / "out", serve=(), search={"candidates": candidates}).manifest
    assert manifest.signature.batch_size == 4
    assert [entry.batch for entry in manifest.winner.profile.batches] == [4]
    broken = {Rejection.FAILED, Rejection.CRASHED, Rejection.UNSUPPORTED}
    assert not [trial.outcome for trial in manifest.trials if trial.outcome and trial.outcome.rejection in broken]
    int8 = next(trial for trial in manifest.trials if trial.name == "onnxruntime-int8")
    assert int8.evidence["integer"]
    assert verify(tmp_path / "out").ok


def test_a_limit_on_memory_costs_candidates_and_batch_sizes_but_never_the_build(built, tmp_path):
    manifest = build(built[0], tmp_path / "out", search={"candidates": QUICK[:1], "max_batch": 4, "memory": "1MB"}).manifest
    assert manifest.chosen == "reference"
    assert {trial.outcome.rejection for trial in manifest.trials[1:]} == {Rejection.MEMORY}
    assert "of memory" in manifest.trials[1].outcome.reason
    assert [entry.batch for entry in manifest.winner.profile.batches] == [1]
    assert "of memory together" in manifest.winner.profile.limit


@pytest.mark.parametrize("change", ["data", "model", "recipe"])
def test_any_change_is_a_miss(built, change, tmp_path):
    small, _, store, _ = built
    for path in (small.model, small.data):
        shutil.copy(path, tmp_path)
    copy = type(small)(tmp_path / small.model.name, tmp_path / small.data.name)
    values = {"search": {"candidates": ("onnxruntime-fp32",), "max_batch": 1}}
    build(copy, tmp_path / "one", store, **values)
    assert build(copy, tmp_path / "two", store, **values).cached
    if change == "data":
        with np.load(copy.data) as arrays:
            changed = {name: arrays[name].copy() for name in arrays.files}
        changed["pixels"][0, 0] += 0.5
        np.savez(copy.data, **changed)
    elif change == "model":
        model = ir.load(copy.model)
        weight = model.graph.initializers["b0"].const_value.numpy().copy()
        weight[0] += 1e-3
        model.graph.initializers["b0"].const_value = ir.tensor(weight, name="b0")
        ir.save(model, copy.model)
    else:
        values["tolerance"] = "2%"
    assert not build(copy, tmp_path / "three", store, **values).cached


def test_an_artifact_is_not_replaced_without_force(built, tmp_path):
    small, folder, store, _ = built
    before = (folder / "out" / "manifest.json").read_bytes()
    with pytest.raises(UserError) as caught:
        build(small, folder / "out", store)
    assert "--force" in caught.value.hint
    assert (folder / "out" / "manifest.json").read_bytes() == before


def test_verify_finds_a_changed_byte_and_a_wrong_answer(built, tmp_path):
    from mopt.workflows.verify import verify

    folder = tmp_path / "copy"
    shutil.copytree(built[3].folder, folder)
    assert verify(folder).ok
    model = folder / "model" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    found = verify(folder)
    assert not found.ok
    assert any("model/model.onnx" in problem for problem in found.problems)


def test_nothing_worse_than_the_tolerance_is_shipped(tmp_path):
    """Calibrated on one blank image, INT8 is useless, and must be rejected for its quality, with the figures."""
    small = digits(tmp_path)
    with np.load(small.data) as arrays:
        pixels, label = arrays["pixels"].copy(), arrays["label"]
    pixels[::2] *= 100.0
    np.savez(small.data, pixels=pixels, label=label)
    artifact = build(
        small, tmp_path / "out", tolerance="0", search={"candidates": QUICK, "max_batch": 1, "inconclusive": "reject"}
    )
    for trial in artifact.manifest.trials[1:]:
        if trial.quality and trial.quality.verdict != "pass":
            assert trial.outcome.rejection in (Rejection.WORSE, Rejection.INCONCLUSIVE, Rejection.SLOWER)
            assert trial.name != artifact.manifest.chosen


def test_random_data_is_refused_unless_named_and_then_marked(tmp_path):
    small = digits(tmp_path)
    artifact = mopt.build(
        model=str(small.model), data="random", out=tmp_path / "out", search={"candidates": QUICK, "max_batch": 1}
    )
    assert not artifact.manifest.deployable
    assert "random" in artifact.manifest.not_deployable_because
    assert "not deployable" in (tmp_path / "out" / "report.html").read_text().lower()


def mopt_process(*arguments, cwd, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mopt", "build", *map(str, arguments)], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        # A shell makes what it starts in the background ignore Ctrl-C, and so would all children of the tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options,
    )  # fmt: skip


def children_of(session: int) -> list[int]:
    """Processes that were started, directly or not, by the leader of a session and still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().rsplit(")", 1)
        except OSError:
            continue
        if "mopt.system.child" in (stat.parent / "cmdline").read_text() and fields.split()[0] != "Z":
            environment = (stat.parent / "environ").read_bytes()
            if f"MOPT_TEST_SESSION={session}".encode() in environment:
                found.append(int(name.split(" ", 1)[0]))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_end_in_the_middle_leaves_no_child_and_no_half_artifact(tmp_path, number):
    small = digits(tmp_path)
    mark = str(os.getpid())
    process = mopt_process(
        small.model, "--data", small.data, "--candidate", "onnxruntime-*", "--out", "out", cwd=tmp_path,
        env={**os.environ, "MOPT_TEST_SESSION": mark},
    )  # fmt: skip
    for line in process.stderr:
        if "compiling" in line:
            break
    time.sleep(0.5)
    os.kill(process.pid, number)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), rest
    deadline = time.monotonic() + 10
    while children_of(int(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children_of(int(mark)) == []
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in rest
    if number == signal.SIGKILL:
        artifact = build(small, tmp_path / "out", search={"candidates": ("onnxruntime-fp32",), "max_batch": 1})
        assert artifact.manifest.chosen


def test_command_line_prints_the_table_on_stdout_and_progress_on_stderr(tmp_path):
    small = digits(tmp_path)
    process = mopt_process(
        small.model, "--data", small.data, "--candidate", "onnxruntime-fp32", "--max-batch", 1, "--out", "out", cwd=tmp_path
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "onnxruntime-fp32" in out
    assert "report.html" in out
    assert "compiling" in err
    assert "compiling" not in out


def test_json_is_for_programs(tmp_path):
    small = digits(tmp_path)
    process = mopt_process(
        small.model, "--data", small.data, "--candidate", "onnxruntime-fp32", "--max-batch", 1, "--quiet", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    assert err == ""
    assert json.loads(out)["artifact"] == "digits.mopt"


def test_dry_run_writes_nothing(tmp_path):
    small = digits(tmp_path)
    process = mopt_process(small.model, "--data", small.data, "--dry-run", "--json", cwd=tmp_path)
    out, _ = process.communicate(timeout=300)
    plan = json.loads(out)
    assert "onnxruntime-int8" in [candidate["name"] for candidate in plan["candidates"]]
    assert plan["metric"] == "accuracy"
    assert not (tmp_path / "digits.mopt").exists()
