"""Commands that are imported when they are used, and help in panels without Rich."""

from __future__ import annotations

__all__ = ["COMMANDS", "PANELS", "CommandGroup", "LazyGroup", "PanelCommand", "command_app", "load_command"]

import importlib
from collections.abc import Mapping
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from mopt.cli._errors import past_typer

PANELS = {
    "Build": {
        "build": "Build the fastest version of a model that is still right.",
        "init": "Write a commented recipe for a model.",
        "check": "Check recipes without running anything.",
        "inspect": "Show what a model is: signature, operators, parameters, precision.",
        "explain": "Show layer by layer what quantization does: which hurt, which are slow, which stayed in float.",
        "rebuild": "Build the TensorRT engine of an artifact again, for another GPU.",
    },
    "Check": {
        "verify": "Check an artifact here, or in the server that will run it.",
        "label": "Write the few samples whose labels decide a build without labels.",
        "gate": "Decide whether a new model is as good as the one that is served, and costs no more.",
        "baseline": "Keep what a model answers and costs in a small file for mopt gate.",
    },
    "Serve and size": {
        "package": "Write the files of further serving systems into an artifact.",
        "push": "Put an artifact where a serving system or a registry takes it from, complete or not at all.",
        "bench": "Profile an artifact again, or load a server that runs it; find the largest rate.",
        "drift": "Say whether requests still look like the samples of the build.",
        "size": "Say which machines, how many and for how much money hold a traffic.",
    },
    "Installation": {
        "list": "List passes, runtimes, targets, metrics and other plugins.",
        "tools": "Install servers and converters, each in an environment of its own.",
        "doctor": "Show what is installed, what is missing, and how to install it.",
        "cache": "Show the size of the cache, or clear it.",
    },
}
"""The order of ``--help``, and its text, so that help needs no command to be imported."""

COMMANDS = {name: text for commands in PANELS.values() for name, text in commands.items()}

_WIDEST = 30
"""Longer names stand on a line of their own, as in Typer."""
_WHOLE = 1000
"""Characters: no text of a command is ever that long, so that none is cut."""


def load_command(name: str) -> Any:
    """Import a command and return it: a :class:`PanelCommand`, or a :class:`CommandGroup` for one with commands of its own."""
    return typer.main.get_command(importlib.import_module(f"mopt.cli.{name}").app)


def command_app(**settings: Any) -> typer.Typer:
    """Return the app of one command, or of a group of them."""
    return typer.Typer(
        cls=CommandGroup, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, **settings
    )


class PanelCommand(TyperCommand):
    """A command whose help groups its options by ``rich_help_panel``, in plain text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options; a mistake in them carries the context, from which the hint is made."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            error.ctx = getattr(error, "ctx", None) or ctx  # type: ignore[attr-defined]
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each panel, the one without a name last."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.param_type_name == "argument":
                panels["Arguments"].append((parameter.metavar or record[0], record[1]))
            elif record is not None:
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(record)
        panels["Options"] = panels.pop("Options", [])
        _write_panels(formatter, panels)


class CommandGroup(TyperGroup):
    """A group whose help lists its commands uncut, and that answers a typo with the nearest one."""

    def panels(self, ctx: Any) -> dict[str, dict[str, str]]:
        """The help of each command, by panel."""
        return {"Commands": {name: command.get_short_help_str(_WHOLE) for name, command in self.commands.items()}}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options of the group.

        Typer's own flags have None for a default. To make a bool of it, Typer would import pydantic, which costs more than all
        else that the help of a command does.
        """
        for parameter in self.get_params(ctx):
            if getattr(parameter, "is_bool_flag", False) and parameter.default is None:
                parameter.default = False
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each panel."""
        _write_panels(formatter, {panel: list(commands.items()) for panel, commands in self.panels(ctx).items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that the first word names.

        Raises:
            UserError: When there is none; the hint names the nearest.
        """
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-") and not ctx.resilient_parsing:
            from mopt.errors import UserError
            from mopt.system.plugins import nearest

            raise UserError(f"unknown command: {args[0]}", nearest(args[0], names))
        return super().resolve_command(ctx, args)


class LazyGroup(CommandGroup):
    """The group of all commands: help and completion know their names and texts, and only one that runs is imported."""

    def panels(self, ctx: Any) -> dict[str, dict[str, str]]:
        """The table of commands."""
        return PANELS

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in that has a command's name and text, and nothing else."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that the first word names, and import it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else None, rest

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what stops it is not left to Typer."""
        with past_typer():
            return super().invoke(ctx)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the options of ``mopt`` itself; what stops them is not left to Typer."""
        with past_typer():
            return super().make_context(info_name, args, parent, **extra)


def _write_panels(formatter: Any, panels: Mapping[str, list[tuple[str, str]]]) -> None:
    """Write sections whose second columns stand under each other."""
    lengths = [len(name) for rows in panels.values() for name, _ in rows]
    width = max((length for length in lengths if length <= _WIDEST), default=0)
    for panel, rows in panels.items():
        if rows:
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=width)
