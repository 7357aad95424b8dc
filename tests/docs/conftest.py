"""A folder with everything that the commands in the documentation name, made once."""

import os
import shutil
from pathlib import Path

import filelock
import pytest

from tests.small import digits

_SEARCH = {"candidates": ["onnxruntime-int8", "onnxruntime-fp32"], "max_batch": 4, "rounds": 5}
_TRAFFIC = {"rate": 100, "p99": "50ms"}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder and the cache that it was made with, shared by the workers of a run; copy it before you write to it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "documented"
    folder.mkdir(exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        if not (folder / "files" / "mopt.toml").is_file():
            _make(folder)
    return folder


def _make(folder: Path) -> None:
    import mopt
    from mopt.system.store import Store

    shutil.rmtree(folder / "files", ignore_errors=True)
    files = folder / "files"
    files.mkdir()
    small = digits(files)
    small.model.rename(files / "model.onnx")
    small.data.rename(files / "samples.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        mopt.build(
            model="model.onnx", data="samples.npz", search=_SEARCH, traffic=_TRAFFIC, out="model.mopt",
            store=Store(folder / "cache"),
        )  # fmt: skip
    for name in ("served.mopt", "new.mopt"):
        shutil.copytree(files / "model.mopt", files / name)
    (files / "mopt.toml").write_text('model = "model.onnx"\ndata = "samples.npz"\n[search]\ncandidates = ["onnxruntime-*"]\n')


@pytest.fixture
def workshop(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder to work in."""
    folder = tmp_path / "files"
    shutil.copytree(made / "files", folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOPT_CACHE", str(made / "cache"))
    return folder
