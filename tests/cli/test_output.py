import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopt.cli._output import _widths, print_columns, print_json, print_lines, print_table, shown_progress
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
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "[00:00] compiling (2)\n[00:00] compiling 2/2: one is out\n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with shown_progress(quiet=False) as progress:
        progress.stage("compiling", 1)
        progress.step("[one] is out")
        progress.stage("measuring", 3)
    assert "[one] is out" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "a"])
def test_a_table_without_rows_has_its_headings(text, capsys):
    print_table([text, "b"], [])
    assert "b" in capsys.readouterr().out
