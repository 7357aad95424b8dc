import sys
from pathlib import Path
from typing import Any

import pytest

from mopt.errors import UserError
from tests.datasets.readers.cases import Opener


def _cells(opened: Opener, path: Path, content: str) -> list[dict[str, Any]]:
    path.write_bytes(content.encode())
    reader = opened(path)
    return [reader.read(index, reader.columns) for index in range(len(reader))]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2.5\n-3,4\n", [{"a": 1, "b": 2.5}, {"a": -3, "b": 4.0}]),
        ('a,b\r\n1,"he said ""hi"",\r\nand left"\r\n2,x', [{"a": 1, "b": 'he said "hi",\r\nand left'}, {"a": 2, "b": "x"}]),
        ("\ufeffa,b\n\nTrue,x\n\nfalse,1\n", [{"a": True, "b": "x"}, {"a": False, "b": "1"}]),
        ("a,a,\n1e3,inf,007\n", [{"a": 1000.0, "a.1": float("inf"), "Unnamed: 2": 7}]),
        ("a,b\n1_000,12345678901234567890\n2,1\n", [{"a": "1_000", "b": "12345678901234567890"}, {"a": "2", "b": "1"}]),
        ("naïve,b\n٣,1,\n", [{"naïve": "٣", "b": 1}]),
    ],
    ids=["numbers", "quotes", "booleans", "names", "no-numbers", "other-scripts"],
)
def test_cells_are_what_pandas_would_find(tmp_path: Path, opened: Opener, content: str, expected: list[dict[str, Any]]) -> None:
    cells = _cells(opened, tmp_path / "d.csv", content)
    assert cells == expected
    assert [[type(cell) for cell in row.values()] for row in cells] == [
        [type(cell) for cell in row.values()] for row in expected
    ]


@pytest.mark.parametrize(("late", "kind"), [("2.5", float), ("x", str)])
def test_the_last_row_counts_for_the_type_of_a_column(tmp_path: Path, opened: Opener, late: str, kind: type) -> None:
    cells = _cells(opened, tmp_path / "d.csv", "a,b\n" + "1,True\n" * 3000 + f"{late},1\n")
    assert (len(cells), {type(row["a"]) for row in cells}, cells[0]["b"]) == (3001, {kind}, "True")


def test_the_label_is_no_column_and_rows_have_names(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "d.tsv").write_text("text\tlabel\nhello, you\t3\nbye\t4\n")
    reader = opened(tmp_path / "d.tsv")
    assert (reader.columns, reader.labels, reader.classes) == (("text",), [3, 4], ())
    assert reader.read(0, ("text",)) == {"text": "hello, you"}
    assert reader.name(1) == "d.tsv row 2"


def test_nothing_but_the_standard_library_is_needed(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("datasets", "pandas", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    assert _cells(opened, tmp_path / "d.csv", "a\n1\n") == [{"a": 1}]


def test_a_text_may_be_long(tmp_path: Path, opened: Opener) -> None:
    assert _cells(opened, tmp_path / "d.csv", "a\n" + "x" * 300_000 + "\n") == [{"a": "x" * 300_000}]


def test_empty_cells_are_named(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "d.csv").write_text("x,z,label\n1,2,1\nNA,3\n")
    reader = opened(tmp_path / "d.csv")
    assert reader.read(0, ("x",)) == {"x": 1}
    with pytest.raises(UserError, match=r"d.csv row 2: x is empty"):
        reader.read(1, ("x",))
    with pytest.raises(UserError, match=r"d.csv: sample 1 has no label"):
        assert reader.labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"a,b\n1,2\n1,2,3,4\n", "row 2 has 4 cells, and there are 2 columns"),
        (b"a,b\n1,\xff\n", "it is not UTF-8 text"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "it ends inside quotes"),
    ],
    ids=["empty", "ragged", "not-text", "quotes"],
)
def test_broken_tables(tmp_path: Path, opened: Opener, content: bytes, message: str) -> None:
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot read .*d.csv: {message}") as caught:
        len(opened(tmp_path / "d.csv"))
    assert "\n" not in caught.value.message
