import errno
import os
import subprocess
import sys

import pytest
import typer

from mopt.cli._errors import past_typer, reported
from mopt.errors import CheckFailedError, MoptError, UserError


def leaves(error, capsys):
    """Run ``reported`` on an error; return exit code and what is written to stderr."""
    with pytest.raises(SystemExit) as leaving, reported():
        raise error
    return leaving.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("it is\n  wrong", "mend it"), 2, "mopt: it is wrong\nhint: mend it\n"),
        (UserError("a\x1b[31mb\0", "mend\n\u202eit"), 2, "mopt: a\\x1b[31mb\\x00\nhint: mend \\u202eit\n"),
        (CheckFailedError("it failed", ""), 3, "mopt: it failed\n"),
        (typer.Abort(), 130, "mopt: interrupted; nothing was written\n"),
        (KeyboardInterrupt(), 130, "mopt: interrupted; nothing was written\n"),
        (typer.BadParameter("no number."), 2, "mopt: Invalid value: no number\nhint: mopt --help\n"),
        (PermissionError(errno.EACCES, "no", "there"), 2, "mopt: no permission to write: there\nhint: choose another folder"),
        (OSError(errno.ENOSPC, "full"), 2, "mopt: the disk is full\nhint: free some space"),
    ],
)
def test_a_mistake_is_a_line_a_hint_and_an_exit_code(error, code, text, capsys):
    left, written = leaves(error, capsys)
    assert left == code
    assert written.startswith(text)


def test_a_line_has_an_end(capsys):
    _, written = leaves(UserError(f"first {'x' * 10**6} last", "mend it"), capsys)
    assert len(written) < 3000
    assert written.startswith("mopt: first xxx")
    assert "xxx last\nhint: mend it\n" in written


def test_a_bug_shows_where_it_is(capsys):
    code, written = leaves(MoptError("a contradiction", ""), capsys)
    assert code == 1
    assert "Traceback" in written
    with pytest.raises(OSError, match="Is a directory"), reported():
        raise OSError(errno.EISDIR, "Is a directory")
    with pytest.raises(ZeroDivisionError), reported():
        1 / 0  # noqa: B018


def test_an_interruption_gets_past_typer(capsys):
    with pytest.raises(SystemExit) as leaving, reported(), past_typer():
        raise KeyboardInterrupt
    assert leaving.value.code == 130


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_pipe_that_nobody_reads_is_no_mistake():
    code = (
        "import sys; from mopt.cli._errors import past_typer, reported\n"
        "with reported(), past_typer():\n    print('x' * 1_000_000, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0
