import json

import pytest

from mopt.datasets import plain_rows as module
from mopt.datasets.plain_rows import plain_rows, plain_text
from mopt.errors import UserError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 1}\n\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ('"x"\n"y"', [{"text": "x"}, {"text": "y"}]),
        ('\ufeff{"a": 1}', [{"a": 1}]),
    ],
)
def test_json_lines(tmp_path, content, expected):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert list(plain_rows(path)) == expected


@pytest.mark.parametrize(
    ("value", "count"),
    [([{"a": 1}, {"a": 2}], 2), ({"data": [{"a": 1}, {"a": 2}], "version": 1}, 2), (["x", "y"], 2), ({"a": "x"}, 1)],
)
def test_json_lists(tmp_path, value, count):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value, indent=1))
    assert len(list(plain_rows(path))) == count


def test_json_lines_that_are_called_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert list(plain_rows(path)) == [{"a": 1}, {"a": 2}]


def test_cells_with_separators_and_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n"1,\n2",3\n')
    assert list(plain_rows(path)) == [{"a": "1,\n2", "b": "3"}]


def test_text_says_its_encoding_or_is_utf_8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("é".encode("utf-16"))
    assert plain_text(path) == "é"
    path.write_bytes("é".encode("utf-8-sig"))
    assert plain_text(path) == "é"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="byte 0 is 0xe9"):
        plain_text(path)


def test_the_end_of_what_is_read_may_cut_a_character(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 4)
    path = tmp_path / "a.txt"
    path.write_text("abcé and more")
    assert plain_text(path) == "abc"


def test_one_json_value_of_gigabytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 4)
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}]')
    with pytest.raises(UserError, match="GB of one JSON value"):
        list(plain_rows(path))
