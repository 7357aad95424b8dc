"""The command line: one module for each command, each imported only when it is used."""

from __future__ import annotations

__all__ = ["main"]

import importlib
import os
import sys
import traceback
from typing import Any

import click

COMMANDS = {
    "build": "Build the fastest version of a model that is still right.",
    "gate": "Decide whether a new model is as good as the one that is served, and costs no more.",
    "baseline": "Keep what a model answers and costs in a small file for mopt gate.",
    "explain": "Show layer by layer what quantization does: which hurt, which are slow, which stayed in float.",
    "verify": "Check an artifact on this machine: digests and golden samples.",
    "rebuild": "Build the TensorRT engine of an artifact again, for another GPU.",
    "bench": "Profile an artifact again, or load a server that runs it; find the largest rate.",
    "size": "Say which machines, how many and for how much money hold a traffic.",
    "inspect": "Show what a model is: signature, operators, parameters, precision.",
    "init": "Write a commented recipe for a model.",
    "list": "List passes, runtimes, targets, metrics, readers or serving systems.",
    "doctor": "Show what is installed, what is missing, and how to install it.",
    "cache": "Show the size of the cache, or clear it.",
    "completion": "Print the shell completion script.",
}
"""The order of ``--help``, and its text, so that help needs no command to be imported."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"mopt.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from mopt.errors import UserError
            from mopt.system.plugins import nearest

            raise UserError(f"unknown command: {args[0]}", nearest(args[0], COMMANDS))
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"mopt {version('mopt')}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version.")
def root() -> None:
    """Compile a trained model ahead of time for the server that must run it.

    mopt build tries several precisions and runtimes, checks each against the reference on your samples, measures them
    side by side, and writes the fastest one that is still right as an artifact that a serving system loads.
    """


def main() -> None:
    """Run the command line and leave with its exit code: 0 done, 2 a mistake in the request, 3 a gate that failed."""
    from mopt.errors import ExitCode, MoptError

    try:
        root.main(prog_name="mopt", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("mopt: interrupted; nothing was written", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except click.UsageError as error:
        _complain(error.format_message(), f"{error.ctx.command_path} --help" if error.ctx else "mopt --help")
        sys.exit(ExitCode.USAGE)
    except click.ClickException as error:
        _complain(error.format_message(), "")
        sys.exit(ExitCode.USAGE)
    except MoptError as error:
        if error.exit_code is ExitCode.BUG:
            traceback.print_exc()
        else:
            _complain(error.message, error.hint)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except OSError as error:
        if (told := _system_mistake(error)) is None:
            raise
        _complain(*told)
        sys.exit(ExitCode.USAGE)


def _system_mistake(error: OSError) -> tuple[str, str] | None:
    import errno

    where = f": {error.filename}" if error.filename else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk is full{where}", "free some space, mopt cache clear, or point $MOPT_CACHE to another disk"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return (
                f"no permission to write{where}",
                "choose another folder with --out, or another cache with $MOPT_CACHE",
            )
    return None


def _complain(message: str, hint: str) -> None:
    click.echo(f"mopt: {' '.join(message.split())}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
