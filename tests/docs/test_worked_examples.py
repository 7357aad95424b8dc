"""Each worked example of the contributing pages, followed to the letter in a scratch copy of the repository.

Blocks with ``<!-- file: PATH -->`` are written, to paths that do not exist before, and then the commands run. So nothing
has to be edited to add one of these.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, REPOSITORY, blocks, commands

EXAMPLES = [page for page in PAGES if page.name.startswith("add-a-")]
_COPIED = ("mopt", "tests", "docs", "pyproject.toml", "README.md")


@pytest.fixture
def scratch(tmp_path: Path, made: Path) -> Path:
    """A copy of the repository, with a model and samples in its root."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in _COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for name in ("model.onnx", "samples.npz"):
        shutil.copy(made / "files" / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_it_works_as_it_is_written(page: Path, scratch: Path, tmp_path: Path) -> None:
    written = []
    for block in blocks("python", "toml"):
        if block.page == page and block.note.startswith("file: "):
            path = scratch / block.note.removeprefix("file: ")
            assert not path.exists(), f"{block.place} edits a file"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            written.append(path)
    _lint([path for path in written if path.suffix == ".py"], scratch)
    environment = {**os.environ, "PYTHONPATH": str(scratch), "MOPT_CACHE": str(tmp_path / "cache")}
    for block in blocks("console"):
        for words in commands(block) if block.page == page and not block.note else ():
            done = subprocess.run(_here(words), cwd=scratch, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    _every_candidate_ran(scratch)


def _every_candidate_ran(folder: Path) -> None:
    """What was added was not merely listed: no trial of the builds broke or was skipped."""
    for artifact in folder.glob("*.mopt"):
        for trial in json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["trials"]:
            outcome = trial["outcome"] or {"rejection": "", "reason": ""}
            assert outcome["rejection"] not in ("crashed", "failed", "hung", "skipped"), f"{trial['name']}: {outcome['reason']}"


def _here(words: list[str]) -> list[str]:
    """The same command with this interpreter."""
    if words[0] == "mopt":
        return [sys.executable, "-m", "mopt", *words[1:]]
    assert words[0] == ".venv/bin/python"
    return [sys.executable, *words[1:], *(["-p", "no:cacheprovider"] if "pytest" in words else [])]


def _lint(files: list[Path], folder: Path) -> None:
    """Hold what was written to the rules of the repository."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]) if ruff and files else ():
        done = subprocess.run([str(ruff), *command, *map(str, files)], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
