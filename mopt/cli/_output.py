"""One place that decides between people and programs: results on stdout, progress on stderr."""

from __future__ import annotations

__all__ = [
    "TerminalProgress",
    "print_columns",
    "print_json",
    "print_lines",
    "print_table",
    "result_console",
    "shown_progress",
]

import contextlib
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_CI_WIDTH = 160


def result_console() -> Console:
    """The console for results; where stdout is no terminal, wide enough that no table is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _CI_WIDTH, highlight=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """Print JSON data; an infinite number is a string as in the files, for JSON has none."""
    from pydantic_core import to_json

    typer.echo(to_json(value, indent=2, inf_nan_mode="strings").decode())


_GAP = 2
"""Spaces between columns."""


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", right: Sequence[int] = ()) -> None:
    """Print a table of plain text; nothing in it is read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = result_console()
    widths = _widths([[heading, *cells] for heading, *cells in zip(columns, *rows, strict=True)], console.width)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def print_columns(
    headings: Mapping[str, str],
    rows: Iterable[Mapping[str, str]],
    *,
    narrow: Collection[str],
    wide_enough: int,
    title: str = "",
    right: Collection[str] = (),
) -> None:
    """Print a table whose columns are chosen by the width of the terminal.

    Args:
        headings: Of all columns, by their names, in order.
        rows: The text of each cell, by column.
        narrow: Names of the columns that are left on a terminal of less than ``wide_enough`` columns.
        wide_enough: Width from which on all columns are shown.
        title: Above the table.
        right: Names of the columns with numbers.
    """
    shown = [name for name in headings if result_console().width >= wide_enough or name in narrow]
    print_table(
        [headings[name] for name in shown],
        [[row[name] for name in shown] for row in rows],
        title=title,
        right=[index for index, name in enumerate(shown) if name in right],
    )


def print_lines(lines: Iterable[str]) -> None:
    """Print the lines that are not empty; folded on a terminal, whole everywhere else."""
    console = result_console()
    for line in filter(None, lines):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int | None]:
    """Return a width for each column: the widest one gives way first, and none cuts a word where all words have room."""
    from rich.cells import cell_len

    widths = [max(cell_len(line) for cell in column for line in cell.splitlines() or [""]) for column in columns]
    words = [max(cell_len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    left = sum(widths) + _GAP * len(columns) - room
    if sum(words) + _GAP * len(columns) > room:
        return [None] * len(columns)
    while left > 0:
        widest = max(range(len(widths)), key=lambda index: (widths[index] > words[index], widths[index]))
        widths[widest] -= 1
        left -= 1
    return list(widths)


class TerminalProgress:
    """A bar with the remaining time on a terminal, and plain lines in CI."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task: Any = None
        self._title = ""
        self._done = self._total = 0
        self._start = time.monotonic()

    def stage(self, title: str, total: int) -> None:
        """Begin a stage."""
        self._title, self._total, self._done = title, total, 0
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(title, total=total)
        elif total:
            typer.echo(f"[{self._elapsed()}] {title} ({total})", err=True)

    def step(self, note: str = "") -> None:
        """One step is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
            if note:
                self._bar.console.print(f"  {note}", markup=False, highlight=False)
        elif note:
            typer.echo(f"[{self._elapsed()}] {self._title} {self._done}/{self._total}: {note}", err=True)

    def note(self, text: str) -> None:
        """Print a line between two steps."""
        if self._bar is not None:
            self._bar.console.print(f"  {text}", markup=False, highlight=False)
        else:
            typer.echo(f"[{self._elapsed()}] {self._title}: {text}", err=True)

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self._start)
        return f"{seconds // 60:02d}:{seconds % 60:02d}"


@contextlib.contextmanager
def shown_progress(quiet: bool) -> Iterator[Any]:
    """Yield the progress that fits where stderr goes."""
    from mopt.progress import Silent

    if quiet:
        yield Silent()
    elif sys.stderr.isatty() and not os.environ.get("CI"):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield TerminalProgress(bar)
    else:
        yield TerminalProgress(None)
