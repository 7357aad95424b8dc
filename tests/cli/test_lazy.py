from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mopt.cli import COMMANDS
from mopt.cli._lazy import LazyGroup, PanelCommand, command_app, load_command
from mopt.errors import UserError

app = command_app(help="Two commands.")


@app.command("first", cls=PanelCommand)
def first(
    word: Annotated[str, typer.Argument(metavar="WORD", help="Any.")],
    count: Annotated[int, typer.Option("--count", help="How often.", rich_help_panel="Numbers")] = 1,
    loud: Annotated[bool, typer.Option("--loud", help="In capitals.")] = False,
) -> None:
    """Say a word."""
    typer.echo((word.upper() if loud else word) * count)


@app.command("second", cls=PanelCommand)
def second() -> None:
    """Say nothing."""


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_options_stand_in_their_panels_and_those_without_one_come_last():
    shown = run("first", "--help").stdout
    places = [shown.index(text) for text in ("Arguments:", " WORD ", "Numbers:", "--count", "\nOptions:", "--loud")]
    assert places == sorted(places)


def test_a_group_lists_its_commands_uncut_and_runs_them():
    assert "first   Say a word.\n" in run("--help").stdout
    assert run("first", "a", "--count", "2", "--loud").stdout == "AA\n"


def test_a_typo_gets_the_nearest_command():
    with pytest.raises(UserError, match="unknown command: frist") as caught:
        run("frist")
    assert caught.value.hint == "did you mean first?"


def test_every_command_can_be_loaded_and_its_text_is_the_one_in_the_table():
    for name, text in COMMANDS.items():
        command = load_command(name)
        if not hasattr(command, "commands"):
            assert isinstance(command, PanelCommand)
            assert command.help.partition("\n")[0].split()[0] == text.split()[0]


def test_help_knows_commands_without_importing_them():
    group = LazyGroup(name="mopt")
    assert group.list_commands(None) == list(COMMANDS)
    assert group.get_command(None, "build").help == COMMANDS["build"]
    assert group.get_command(None, "bild") is None
