"""The image, as far as it can be checked without building it."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def instructions():
    """Instructions with their text, the continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages():
    """Instructions of each stage, by the stage's name; the last one is called final."""
    named, name = {}, "head"
    for word, text in instructions():
        if word == "FROM":
            name = text.partition(" AS ")[2] or "final"
        named.setdefault(name, []).append((word, text))
    return named


def sources():
    """What is copied from the repository."""
    copies = [shlex.split(text) for word, text in instructions() if word == "COPY"]
    return [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]


def is_sent(path):
    """Whether .dockerignore lets a file through; its last pattern that matches the file or a folder above it decides."""
    sent, folders = True, path.split("/")
    above = ["/".join(folders[: count + 1]) for count in range(len(folders))]
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        plain = pattern.removeprefix("!")
        anywhere = plain.removeprefix("**/")
        names = folders if anywhere != plain else above
        if pattern and pattern[0] != "#" and any(fnmatch.fnmatch(name, anywhere) for name in names):
            sent = pattern[0] == "!"
    return sent


def test_everything_that_is_copied_is_there_and_sent():
    assert sources()
    for source in sources():
        assert (ROOT / source).exists()
        assert is_sent(source)
    assert is_sent("mopt/cli/__init__.py")
    for path in (
        ".git/config",
        "tests/small.py",
        "model.onnx",
        "mopt/__pycache__/x.pyc",
        "mopt/cli/__pycache__/x.pyc",
        ".venv/x",
    ):
        assert not is_sent(path), path


def test_stages_are_copied_from_that_are_there():
    names = list(stages())
    for name, lines in stages().items():
        for word, text in lines:
            if word == "COPY" and (given := re.match(r"--from=(\S+)", text)):
                assert names.index(given[1]) < names.index(name)


def test_every_argument_is_used_in_its_stage():
    """By the build backend in the case of SOURCE_DATE_EPOCH, which reads its environment."""
    for name, lines in stages().items():
        declared = [text.partition("=")[0] for word, text in lines if word == "ARG"]
        used = "\n".join(text for _, text in (instructions() if name == "head" else lines))
        assert [each for each in declared if f"${{{each}" not in used] in ([], ["SOURCE_DATE_EPOCH"])
    arguments = dict(text.partition("=")[::2] for word, text in instructions() if word == "ARG")
    assert set(arguments["EXTRAS"].split(",")) <= EXTRAS


def test_the_last_stage_has_no_root_and_keeps_the_cache_apart():
    final = stages()["final"]
    words = dict(final)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", words["USER"])
    order = [word for word, _ in final]
    assert "RUN" not in order[order.index("USER") :]
    assert "COPY" not in order[order.index("USER") :]
    assert json.loads(words["ENTRYPOINT"]) == ["mopt"]
    assert words["WORKDIR"] == "/work"
    environment = dict(pair.split("=", 1) for pair in shlex.split(words["ENV"]))
    assert environment["MOPT_CACHE"] in json.loads(words["VOLUME"])
    assert f"--mode 1777 {words['WORKDIR']} {environment['MOPT_CACHE']}" in words["RUN"]


def test_nothing_that_was_downloaded_stays():
    for word, text in instructions():
        if word == "RUN" and "pip " in text:
            assert "--no-cache-dir" in text
        if word == "RUN" and "apt-get update" in text:
            assert "--no-install-recommends" in text
            assert "rm -rf /var/lib/apt/lists/*" in text


def test_a_release_fills_in_every_label():
    labels = [text for word, text in instructions() if word == "LABEL"]
    variables = set(re.findall(r"\$\{(\w+)\}", " ".join(labels)))
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert variables == {"VERSION", "REVISION", "CREATED"}
    assert all(f"{name}=${{{{" in release for name in variables)


@pytest.mark.slow
def test_the_wheel_is_built_of_what_is_copied(tmp_path):
    """With the command of the Dockerfile: a file that the build needs and the image lacks shows here."""
    for source in stages()["wheel"]:
        if source[0] == "COPY":
            *files, _ = shlex.split(source[1])
            for name in files:
                path = ROOT / name
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, tmp_path / name, ignore=ignore) if path.is_dir() else shutil.copy(path, tmp_path / name)
    (command,) = (text for word, text in stages()["wheel"] if word == "RUN")
    words = [str(tmp_path / "wheels") if word == "/wheels" else word for word in shlex.split(command)]
    assert words[0] == "python"
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    if "hatchling" in done.stderr and "No matching distribution" in done.stderr:
        pytest.skip("the build backend cannot be fetched")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name.startswith("mopt-")
