"""Every command in the README and in the documentation: parsed with every option known, and run unless it takes long.

A comment before a block says otherwise: ``<!-- test: parse -->`` for what takes minutes, ``<!-- test: exit 3 -->`` for what
leaves with another code on purpose. Commands of one block run one after the other in one folder.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import REPOSITORY, Block, blocks, commands

WORKED = "add-a-"
"""Pages of worked examples begin so; their commands run in a copy of the repository, in ``test_worked_examples``."""


def _unique(found: Iterator[Block]) -> list[Block]:
    """The blocks that differ: a command that stands on three pages runs once."""
    return list({(block.text, block.note): block for block in found}.values())


CONSOLE = _unique(blocks("console"))
RUN = [
    block
    for block in CONSOLE
    if block.note != "test: parse" and not block.page.name.startswith(WORKED) and "$ mopt " in block.text
]


def parse(words: Sequence[str]) -> None:
    """Parse the words of a command line without running it; a mistake in them raises."""
    import typer.main

    from mopt.cli import app

    command: Any = typer.main.get_command(app)
    context, rest = command.make_context("mopt", [], resilient_parsing=True), list(words)
    if rest[0].startswith("-"):
        assert rest[0] in {option for parameter in command.params for option in parameter.opts}, f"no option {rest[0]}"
        return
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        inner = [] if hasattr(command, "resolve_command") else rest
        context = command.make_context(name, inner, parent=context, resilient_parsing=hasattr(command, "resolve_command"))


def run(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run ``mopt`` with these words in this process; return what it leaves with."""
    from mopt.cli import main

    monkeypatch.setattr(sys, "argv", ["mopt", *words])
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: block.place)
def test_every_command_is_one_that_there_is(block: Block) -> None:
    for words in commands(block):
        program, *rest = words
        if program == "mopt":
            parse(rest)
        else:
            _check_other(program, rest)


def _check_other(program: str, words: Sequence[str]) -> None:
    """Check what can be checked of a command that is not mopt's."""
    match program:
        case "make":
            targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert set(words) <= set(targets)
        case "pip":
            known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
                "optional-dependencies"
            ]
            for extras in re.findall(r"mopt\[([\w,-]+)\]", " ".join(words)):
                assert set(extras.split(",")) <= set(known)
        case "python" | ".venv/bin/python":
            _check_python(words)
        case _:
            raise AssertionError(f"{program}: a command that no test knows")


def _check_python(words: Sequence[str]) -> None:
    if words[:2] == ["-m", "pytest"]:
        paths = [word for word in words[2:] if word.startswith("tests/")]
    elif words[0] == "-m":
        paths = [f"{words[1].replace('.', '/')}.py"]
    else:
        paths = [words[0]]
    for path in paths:
        assert (REPOSITORY / path).exists() or _is_written_here(path), f"no {path}"


def _is_written_here(path: str) -> bool:
    """Whether a worked example makes this file."""
    return any(block.note == f"file: {path}" for block in blocks("python", "toml"))


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=lambda block: block.place)
def test_commands_run(
    block: Block, workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = int(block.note.removeprefix("test: exit ")) if block.note.startswith("test: exit ") else 0
    for words in commands(block):
        if words[0] != "mopt" or words[1].startswith("--install"):
            continue
        code = run(words[1:], monkeypatch)
        assert code == expected, f"{' '.join(words)} left with {code}: {capsys.readouterr().err[-500:]}"


def test_most_commands_are_really_run() -> None:
    shown = {tuple(words) for block in RUN for words in commands(block) if words[0] == "mopt"}
    assert {words[1] for words in shown} >= {
        "build",
        "baseline",
        "cache",
        "check",
        "doctor",
        "gate",
        "init",
        "inspect",
        "list",
        "verify",
    }
