import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopt.cli._output import (
    LineProgress,
    _widths,
    print_columns,
    print_json,
    print_lines,
    print_table,
    remaining_text,
    shown_progress,
)
from mopt.progress import Silent
from tests import manifests


def test_json_keeps_every_letter(capsys):
    print_json({"a": "µ"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": "µ"}
    assert "µ" in text


def test_json_has_no_infinity_and_programs_get_it_as_the_files_have_it(capsys):
    print_json(manifests.quality(0.0, 0.0).model_dump(mode="json"))
    content = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert content["fidelity"]["logits: SNR, dB"] == "Infinity"


def test_a_table_is_text_and_no_markup(capsys):
    print_table(["name", "n"], [["[bold]x[/bold]", "1"], ["y", "22"]], title="Things", right=[1])
    shown = capsys.readouterr().out
    assert "[bold]x[/bold]" in shown
    assert shown.splitlines()[0].strip() == "Things"
    assert [line.rstrip()[-2:] for line in shown.splitlines() if line.startswith((" [bold]", " y"))] == [" 1", "22"]


def test_names_out_of_a_file_do_not_move_the_cursor(capsys):
    print_table(["a\tb"], [["\x1b[2Jx\u202ey\x9b"]])
    print_lines(["one\x07"])
    written = capsys.readouterr().out
    assert "\\x1b[2Jx\\u202ey\\x9b" in written
    assert "one\\x07" in written
    assert not set(written) & set("\x1b\u202e\x9b\x07")


def test_a_narrow_terminal_gets_fewer_columns(capsys):
    table = {"headings": {"a": "A", "b": "B"}, "rows": [{"a": "1", "b": "2"}], "narrow": ("a",)}
    print_columns(**table, wide_enough=1000)
    assert "B" not in capsys.readouterr().out
    print_columns(**table, wide_enough=100)
    assert "B" in capsys.readouterr().out


def test_lines_that_are_empty_are_left_out(capsys):
    print_lines(["one", "", "two"])
    assert capsys.readouterr().out == "one\ntwo\n"


WORDS = st.text("abc", min_size=1, max_size=9)
COLUMNS = st.lists(st.lists(st.lists(WORDS, max_size=5).map(" ".join), min_size=2, max_size=2), min_size=1, max_size=5)


@settings(max_examples=40)
@given(columns=COLUMNS, room=st.integers(1, 120))
def test_columns_fit_and_no_word_is_cut(columns, room):
    widths = _widths(columns, room)
    words = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    if None in widths:
        assert sum(words) + 2 * len(columns) > room
    else:
        assert sum(widths) + 2 * len(columns) <= room
        assert all(width >= word for width, word in zip(widths, words, strict=True))


def test_progress_is_lines_in_ci_and_nothing_when_quiet(capsys):
    with shown_progress(quiet=True) as progress:
        assert isinstance(progress, Silent)
    with shown_progress(quiet=False) as progress:
        progress.stage("compiling", 2)
        progress.step()
        progress.step("one is out")
        progress.stage("measuring", 0)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "[00:00] compiling (2)\n[00:00] compiling 2/2: one is out\n"


def test_lines_come_every_few_seconds_however_many_steps_there_are(capsys):
    now = 0.0
    progress = LineProgress(lambda: now)
    progress.expect({"compiling": 104.0, "measuring": 100.0})
    progress.stage("compiling", 104)
    for index in range(104):
        now += 0.25
        progress.step(f"note {index}" if index < 20 else "")
    progress.stage("measuring", 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[00:00] compiling (104)"
    assert lines[-1] == "[00:26] measuring (1)"
    assert len(lines) == 2 + 5
    assert lines[1] == "[00:05] compiling 20/104, about 2:45 left: note 0; note 1; note 2; and 17 more"
    assert ":" not in lines[2].partition("left")[2]


def test_what_is_left_to_say_is_said_before_the_next_stage(capsys):
    with shown_progress(quiet=False) as progress:
        progress.stage("compiling", 3)
        for name in "ab":
            progress.step(f"{name} is out")
    assert capsys.readouterr().err.splitlines()[1:] == ["[00:00] compiling 2/3, about 0:05 left: a is out; b is out"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.4, "about 0:05 left"), (62, "about 1:00 left"), (119, "about 2:00 left"), (200, "about 3:15 left")],
)
def test_the_remaining_time_is_no_more_exact_than_it_can_be(seconds, text):
    assert remaining_text(seconds) == text


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with shown_progress(quiet=False) as progress:
        progress.stage("compiling", 1)
        progress.step("[one] is out")
        progress.expect({"measuring": 30.0})
        progress.stage("measuring", 3)
    shown = capsys.readouterr().err
    assert "[one] is out" in shown
    assert "about 0:30 left" in shown


@pytest.mark.parametrize("title", ["checking the export, simplifying", "mixed precision for onnxruntime-int8-percentile"])
def test_the_bar_fits_a_narrow_terminal(title, monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with shown_progress(quiet=False) as progress:
        progress.expect({title: 500.0})
        progress.stage(title, 104)
    shown = capsys.readouterr().err
    drawn = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "\n").splitlines() if "left" in line]
    assert drawn
    assert all("0/104" in line and "about 8:15 left" in line and len(line) <= 80 for line in drawn)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_table_without_rows_has_its_headings(text, capsys):
    print_table([text, "b"], [])
    assert "b" in capsys.readouterr().out
