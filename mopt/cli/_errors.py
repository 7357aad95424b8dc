"""Every mistake becomes one line, a hint and an exit code, in one place."""

from __future__ import annotations

__all__ = ["past_typer", "reported"]

import contextlib
import difflib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import typer

from mopt.cli._output import printable
from mopt.errors import ExitCode, MoptError

_LONGEST = 2000
"""Characters of a line: names in a file may be of any length."""
_ALIKE = 0.5
"""Similarity from which on a word is taken for a mistyped other one."""


class _StoppedError(Exception):
    """Carries what ended a command past Typer, which would answer it with a text and an exit code of its own."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


@contextlib.contextmanager
def past_typer() -> Iterator[None]:
    """Keep an interruption, and a pipe that nobody reads, from Typer, so that :func:`reported` answers them."""
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError) as error:
        raise _StoppedError(error) from error


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Report what the command line and its commands raise, and leave with the exit code of it.

    Raises:
        SystemExit: For everything that is no bug.
    """
    try:
        yield
    except _StoppedError as stop:
        _leave_stopped(stop.cause)
    except (typer.Abort, KeyboardInterrupt) as error:
        _leave_stopped(error)
    except typer.TyperException as error:
        _leave(ExitCode.USAGE, _usage_message(error), _usage_hint(error))
    except MoptError as error:
        if error.exit_code is ExitCode.BUG:
            traceback.print_exc()
            sys.exit(ExitCode.BUG)
        _leave(error.exit_code, error.message, error.hint)
    except OSError as error:
        if (mistake := _system_mistake(error)) is None:
            raise
        _leave(ExitCode.USAGE, *mistake)


def _leave(code: int, message: str, hint: str) -> None:
    typer.echo(f"mopt: {_one_line(message)}", err=True)
    if hint:
        typer.echo(f"hint: {_one_line(hint)}", err=True)
    sys.exit(code)


def _one_line(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


def _leave_stopped(cause: BaseException) -> None:
    if isinstance(cause, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    _leave(ExitCode.INTERRUPTED, "interrupted; nothing was written", "")


def _usage_message(error: typer.TyperException) -> str:
    """What Typer says, without its suggestions, and with the value that it could not use."""
    if _is_unknown_option(error):
        return error.message
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    given = _given(error)
    return message if given is None or repr(given) in message else f"{message} (given: {given!r})"


def _usage_hint(error: typer.TyperException) -> str:
    context: Any = getattr(error, "ctx", None)
    page = f"{context.command_path} --help" if context else "mopt --help"
    if _is_unknown_option(error):
        suggestions = difflib.get_close_matches(getattr(error, "option_name", ""), _options(context), n=1, cutoff=_ALIKE)
    else:
        suggestions = difflib.get_close_matches(str(_given(error)), _choices(error), n=1, cutoff=_ALIKE)
    return f"did you mean {suggestions[0]}?" if suggestions else page


def _is_unknown_option(error: typer.TyperException) -> bool:
    return hasattr(error, "possibilities")


def _options(context: Any) -> list[str]:
    parameters = context.command.get_params(context) if context else []
    return [name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]


def _given(error: BaseException) -> Any:
    """The value that could not be converted, from the error of pydantic behind Typer's."""
    details = getattr(error.__cause__, "errors", None)
    return details()[0]["input"] if details else None


def _choices(error: typer.TyperException) -> list[str]:
    descriptor = getattr(getattr(error, "param", None), "type_descriptor", None)
    return [str(choice) for choice in getattr(descriptor, "choices", None) or ()]


def _system_mistake(error: OSError) -> tuple[str, str] | None:
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
