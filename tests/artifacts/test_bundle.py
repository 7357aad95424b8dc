import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mopt.artifacts import bundle
from mopt.artifacts.artifact import Artifact, read_manifest
from mopt.artifacts.bundle import check_destination, write_artifact
from mopt.errors import UserError
from mopt.model.signature import TensorSpec
from mopt.system.files import disk_errors, partial_folder, partial_prefix
from tests.artifacts.cases import INPUT, OUTPUT, write
from tests.manifests import manifest, trial


def test_the_layout_and_the_modes(tmp_path, model):
    destination = tmp_path / "deep" / "er" / "artifact"
    written = write(destination, model)
    files = {path.relative_to(destination).as_posix() for path in destination.rglob("*") if path.is_file()}
    assert files == {
        "manifest.json",
        "report.md",
        "report.html",
        "model/model.onnx",
        "model/model.onnx.data",
        "golden/000/inputs.npz",
        "golden/000/outputs.npz",
        "monitoring/README.md",
        "monitoring/triton/rules.yml",
        "monitoring/triton/dashboard.json",
        "serving/triton/resnet50/config.pbtxt",
        "serving/triton/resnet50/1/model.onnx",
        "serving/triton/resnet50/1/model.onnx.data",
        "serving/triton/resnet50/warmup/input-0",
        "serving/triton/README.md",
        "serving/triton/request.json",
    }
    assert {path.stat().st_mode & 0o7777 for path in destination.rglob("*") if path.is_file()} == {0o644}
    assert {path.stat().st_mode & 0o7777 for path in [destination, *destination.rglob("*")] if path.is_dir()} == {0o755}
    assert set(written.files) == files - {"manifest.json"}
    assert read_manifest(destination) == written
    assert Artifact.read(destination).problems() == []


def test_serving_shares_the_graph_but_not_its_data_and_the_store_keeps_its_own(tmp_path, model):
    write(tmp_path / "artifact", model)
    ours, served = tmp_path / "artifact/model", tmp_path / "artifact/serving/triton/resnet50/1"
    assert (ours / "model.onnx").samefile(served / "model.onnx")
    for data in (ours / "model.onnx.data", served / "model.onnx.data"):
        assert data.stat().st_nlink == 1, "onnx refuses external data with two names"
    assert (model.folder / "model.onnx").stat().st_nlink == 1
    assert (model.folder / "model.onnx.data").stat().st_mode & 0o777 == 0o444


def test_equal_builds_write_equal_bytes(tmp_path, model):
    first, second = write(tmp_path / "one", model), write(tmp_path / "two", model)
    assert first.files == second.files


def test_a_system_that_cannot_serve_it_says_why(tmp_path, model):
    odd = manifest().signature.model_copy(
        update={"inputs": (TensorSpec(name="images", dtype="complex64", shape=("batch", 3)),)}
    )
    write(tmp_path / "artifact", model, signature=odd)
    text = (tmp_path / "artifact/serving/triton/NOT-WRITTEN.md").read_text()
    assert "complex64" in text
    assert Artifact.read(tmp_path / "artifact").problems() == []


# Refusals, each before any work and without a trace.


def folder_with_a_manifest_of_another_kind(path):
    path.mkdir()
    (path / "manifest.json").write_text('{"name": "a browser extension", "version": "1"}')


def folder_with_a_file(path):
    path.mkdir()
    (path / "thesis.txt").write_text("ten years of work")


def symbolic_link(path):
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


def dangling_link(path):
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("x"), "is a file"),
        (folder_with_a_file, "not empty, and not an artifact"),
        (folder_with_a_manifest_of_another_kind, "not empty, and not an artifact"),
        (symbolic_link, "symbolic link"),
        (dangling_link, "symbolic link"),
    ],
    ids=["file", "other-folder", "other-manifest", "link", "dangling-link"],
)
def test_what_is_not_an_artifact_is_never_replaced(tmp_path, model, make, words, force):
    make(tmp_path / "artifact")
    before = _snapshot(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        write(tmp_path / "artifact", model, force=force)
    assert caught.value.hint
    assert _snapshot(tmp_path) == before


def test_an_artifact_is_replaced_only_with_force(tmp_path, model):
    write(tmp_path / "artifact", model)
    before = _snapshot(tmp_path)
    with pytest.raises(UserError, match="exists already") as caught:
        write(tmp_path / "artifact", model, name="other")
    assert "--force" in caught.value.hint
    assert _snapshot(tmp_path) == before
    write(tmp_path / "artifact", model, force=True, name="other")
    assert read_manifest(tmp_path / "artifact").name == "other"
    assert Artifact.read(tmp_path / "artifact").problems() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "store"]


def test_an_empty_folder_is_filled(tmp_path, model):
    (tmp_path / "artifact").mkdir()
    write(tmp_path / "artifact", model)
    assert Artifact.read(tmp_path / "artifact").problems() == []


def test_the_current_folder_is_refused(tmp_path, model, monkeypatch):
    (tmp_path / "artifact" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "artifact" / "inside")
    with pytest.raises(UserError, match="current folder"):
        check_destination(tmp_path / "artifact")


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "notes").write_text("x")
    with pytest.raises(UserError, match="is a file, not a folder"):
        check_destination(tmp_path / "notes" / "artifact")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match="too long"):
        check_destination(tmp_path / ("x" * 250))


CHECK = """
import os, sys
from pathlib import Path
from mopt.artifacts.bundle import check_destination
from mopt.errors import UserError
os.setuid(65534)
try:
    check_destination(Path(sys.argv[1]))
except UserError as error:
    print(error.message)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
def test_a_folder_that_may_not_be_written_to():
    with tempfile.TemporaryDirectory() as locked:  # tmp_path lies in a folder that nobody else may enter
        Path(locked).chmod(0o755)
        result = subprocess.run(
            [sys.executable, "-c", CHECK, f"{locked}/artifact"],
            capture_output=True,
            text=True,
            check=True,
            env=_environment(),
        )
        assert result.stdout.startswith(f"no permission to write {locked}\n")
        assert list(Path(locked).iterdir()) == []


FULL = """
mount -t tmpfs -o size=64k none "$1" || exit 99
exec "$2" -c "$3" "$1" "$4"
"""

WRITE_LARGE = """
import sys
from pathlib import Path
import numpy as np
from tests.manifests import manifest
from mopt.artifacts.bundle import write_artifact
from mopt.model.files import Model
from mopt.errors import UserError
place, entry = map(Path, sys.argv[1:])
try:
    write_artifact(place / "made" / "artifact", model=Model("onnx", entry, ""), manifest=manifest(),
                   golden_inputs=[], golden_outputs=[], serving=[])
except UserError as error:
    print(error.message, "|", error.hint)
print(sorted(path.name for path in place.rglob("*")))
"""


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, model):
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed: no small disk can be made")
    (model.folder / "model.onnx.data").chmod(0o644)
    (model.folder / "model.onnx.data").write_bytes(os.urandom(100_000))
    (tmp_path / "small").mkdir()
    command = ["unshare", "-rm", "sh", "-c", FULL, "sh", str(tmp_path / "small"), sys.executable, WRITE_LARGE]
    result = subprocess.run([*command, str(model.folder)], capture_output=True, text=True, check=False, env=_environment())
    if "mount" in result.stderr or "unshare" in result.stderr:
        pytest.skip(f"no small disk can be made here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert "the disk is full" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_every_kind_of_full_is_full(code):
    with pytest.raises(UserError, match="full"), disk_errors(Path("artifact")):
        raise OSError(code, os.strerror(code))


def test_a_failure_while_writing_leaves_nothing(tmp_path, model):
    before = _snapshot(tmp_path)
    with pytest.raises(UserError, match="serving"):
        write_artifact(
            tmp_path / "new" / "artifact",
            model=model,
            manifest=manifest(),
            golden_inputs=[INPUT],
            golden_outputs=[OUTPUT],
            serving=["triton", "trition"],
        )
    assert _snapshot(tmp_path) == before


# Kills.

WRITE_FOREVER = """
import itertools, sys
from pathlib import Path
import numpy as np
from tests.manifests import manifest
from mopt.artifacts.bundle import write_artifact
from mopt.model.files import Model
destination, entry = map(Path, sys.argv[1:])
print("ready", flush=True)
for number in itertools.count():
    write_artifact(destination, model=Model("onnx", entry, ""), manifest=manifest(name=f"build{number}"),
                   golden_inputs=[{"images": np.ones((1, 3, 8, 8), "f4")}],
                   golden_outputs=[{"logits": np.ones((1, 10), "f4")}], serving=["triton"], force=True)
    print("written", flush=True)
"""


@pytest.mark.slow
def test_kill_at_any_moment_leaves_the_old_or_the_new_one_whole(tmp_path, model):
    destination = tmp_path / "place" / "artifact"
    destination.parent.mkdir()
    write(destination, model, name="first")
    seen = set()
    for round_ in range(12):
        command = [sys.executable, "-c", WRITE_FOREVER, str(destination), str(model.folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as child:
            assert child.stdout is not None
            child.stdout.readline()
            if round_ % 2:
                child.stdout.readline()  # a whole artifact was written, however slow the machine is
            time.sleep(random.Random(round_).uniform(0.0, 0.8))
            child.send_signal(signal.SIGKILL)
        assert Artifact.read(destination).problems() == []
        assert len(Artifact.read(destination).golden()) == 1
        seen.add(read_manifest(destination).name)
    assert len(seen) > 1
    write(destination, model, force=True, name="last")
    assert Artifact.read(destination).problems() == []
    assert [path.name for path in destination.parent.iterdir()] == ["artifact"]


def test_what_a_killed_build_left_is_removed_and_a_running_one_is_not(tmp_path, model):
    destination = tmp_path / "artifact"
    left = tmp_path / f"{partial_prefix(destination)}dead"
    (left / "model").mkdir(parents=True)
    (left / "model" / "model.onnx").write_bytes(b"half")
    other = tmp_path / ".artifact2.partial-dead"
    other.mkdir()
    with partial_folder(destination) as running:
        write(destination, model)
        assert running.is_dir()
    assert not left.exists()
    assert other.exists()


@pytest.mark.slow
def test_without_an_exchange_of_folders_a_kill_between_the_renames_is_undone(tmp_path, model, monkeypatch):
    destination = tmp_path / "artifact"
    write(destination, model, name="old")
    monkeypatch.setattr(bundle, "exchange", lambda *_: False)  # a disk without renameat2
    write(destination, model, force=True, name="new")
    assert read_manifest(destination).name == "new"
    destination.rename(tmp_path / ".artifact.replaced-dead")
    with pytest.raises(UserError, match="exists already"):
        write(destination, model, name="newer")
    assert read_manifest(destination).name == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "store"]


def test_the_report_tells_every_reason(tmp_path, model):
    reasons = [entry.outcome.reason for entry in manifest().trials if entry.outcome]
    assert len(reasons) == 10
    write(tmp_path / "artifact", model)
    for name in ("report.md", "report.html"):
        text = (tmp_path / "artifact" / name).read_text().replace("&#39;", "'")
        assert [reason for reason in reasons if reason not in text] == []


def test_a_reference_that_is_its_own_winner(tmp_path, model):
    only = trial("onnxruntime-fp32", 1.0, None, None, passes=(), evidence={})
    write(tmp_path / "artifact", model, chosen="onnxruntime-fp32", trials=(only,), control=None)
    assert "The artifact is the reference itself" in (tmp_path / "artifact/report.html").read_text()


def _environment():
    paths = [Path(bundle.__file__).parents[2]]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def _snapshot(folder):
    return sorted((str(path), path.is_symlink(), path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_that_takes_no_folders_is_the_users_mistake():
    with pytest.raises(UserError, match="no folder can be made in /proc"):
        bundle.check_destination(Path("/proc/artifact"))
