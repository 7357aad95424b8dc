"""One place that decides between people and programs: results on stdout, progress on stderr."""

from __future__ import annotations

__all__ = [
    "BarProgress",
    "LineProgress",
    "print_columns",
    "print_cut_lines",
    "print_json",
    "print_lines",
    "print_table",
    "printable",
    "remaining_text",
    "result_console",
    "shown_progress",
]

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from mopt.progress import Countdown, Silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_CI_WIDTH = 160
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Besides tabs and line ends: what a terminal obeys, what turns the direction of text, and what no encoding can write."""
_LINE_SECONDS = 5.0
"""Between two lines of progress of one stage."""
_SHOWN_NOTES = 3
"""Of those that came since the last line: what became of each candidate is in the table at the end."""
_BESIDE_TITLE = 47
"""Columns that the rest of the bar takes."""
_ROUND_FROM = 120
"""Seconds from which on the remaining time is told to a quarter of a minute."""


def result_console() -> Console:
    """The console for results; where stdout is no terminal, wide enough that no table is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _CI_WIDTH, highlight=False, soft_wrap=False)


def printable(text: str) -> str:
    """Return text with its control characters escaped: a name out of somebody's file must not move the cursor of a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


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
    rows = [[printable(cell) for cell in row] for row in rows]
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
    for line in map(printable, filter(None, lines)):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)


def print_cut_lines(lines: Iterable[str]) -> None:
    """Print each in one line: cut at the edge of a terminal, whole everywhere else."""
    console = result_console()
    for line in map(printable, lines):
        if console.is_terminal:
            console.print(line, markup=False, no_wrap=True, overflow="ellipsis")
        else:
            console.print(line, markup=False, soft_wrap=True)


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


class BarProgress:
    """A bar with the remaining time, on a terminal."""

    def __init__(self, bar: Progress, countdown: Countdown) -> None:
        self._bar = bar
        self._countdown = countdown
        self._task = bar.add_task("", total=1)

    def stage(self, title: str, total: int) -> None:
        """Begin a stage."""
        self._countdown.stage(title, total)
        self._bar.update(self._task, description=title, completed=0, total=total)

    def step(self, note: str = "") -> None:
        """One step is done."""
        self._countdown.step()
        self._bar.update(self._task, completed=self._countdown.done)
        if note:
            self._bar.console.print(f"  {printable(note)}", markup=False, highlight=False, no_wrap=True, overflow="ellipsis")

    def note(self, text: str) -> None:
        """Print a line between two steps."""
        self._bar.console.print(f"  {printable(text)}", markup=False, highlight=False)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Know of stages to come."""
        self._countdown.expect(seconds)


class LineProgress:
    """Plain lines where no terminal is: one for each stage, and one every few seconds; notes are put together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._countdown = Countdown(clock)
        self._start = self._last = clock()
        self._notes: list[str] = []

    def stage(self, title: str, total: int) -> None:
        """Begin a stage; what the last one left to say comes first."""
        self.flush()
        self._countdown.stage(title, total)
        if total:
            self._write(f"{title} ({total})")

    def step(self, note: str = "") -> None:
        """One step is done."""
        self._countdown.step()
        self._notes += [note] if note else []
        if self._clock() - self._last >= _LINE_SECONDS:
            self._write_state()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Know of stages to come."""
        self._countdown.expect(seconds)

    def note(self, text: str) -> None:
        """Write a line between two steps, at once."""
        self._write(f"{self._countdown.title}: {text}")

    def flush(self) -> None:
        """Write the notes that are left."""
        if self._notes:
            self._write_state()

    def _write_state(self) -> None:
        state, left = self._countdown, remaining_text(self._countdown.remaining())
        shown, more = self._notes[:_SHOWN_NOTES], len(self._notes) - _SHOWN_NOTES
        notes = "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])
        self._notes = []
        counted = f"{state.title} {state.done}/{state.total}"
        self._write(", ".join(filter(None, [counted, left])) + (f": {notes}" if notes else ""))

    def _write(self, text: str) -> None:
        self._last = self._clock()
        seconds = int(self._last - self._start)
        typer.echo(f"[{seconds // 60:02d}:{seconds % 60:02d}] {text}", err=True)


def remaining_text(seconds: float | None) -> str:
    """Say about how long it will still take; nothing where that is not known."""
    if seconds is None:
        return ""
    step = 5 if seconds < _ROUND_FROM else 15
    rounded = max(step, round(seconds / step) * step)
    return f"about {rounded // 60}:{rounded % 60:02d} left"


@contextlib.contextmanager
def shown_progress(quiet: bool) -> Iterator[Any]:
    """Yield the progress that fits where stderr goes."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty() and not os.environ.get("CI"):
        with _bar(countdown := Countdown()) as bar:
            yield BarProgress(bar, countdown)
    else:
        lines = LineProgress()
        yield lines
        lines.flush()


def _bar(countdown: Countdown) -> Progress:
    """A bar that fits a narrow terminal: the title gives way."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
    from rich.text import Text

    console = Console(stderr=True)

    class TitleColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            title = Text(task.description)
            title.truncate(max(10, console.width - _BESIDE_TITLE), overflow="ellipsis")
            return title

    class RemainingColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(remaining_text(countdown.remaining()))

    bar, counter = BarColumn(bar_width=10), MofNCompleteColumn()
    columns = (SpinnerColumn(), TitleColumn(), bar, counter, TimeElapsedColumn(), RemainingColumn())
    return Progress(*columns, console=console, transient=True)
