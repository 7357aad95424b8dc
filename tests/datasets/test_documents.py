import dataclasses
import json

import pytest

from mopt.datasets import documents as module
from mopt.datasets import plain_rows
from mopt.datasets.documents import Document, prepare_documents, rendered
from mopt.datasets.spec import DataSpec, TextSpec
from mopt.errors import UserError


def spec(path, **fields):
    return DataSpec(path=str(path), **fields)


def many(tmp_path, count=20):
    for number in range(count):
        (tmp_path / f"{number:02}.txt").write_text(f"document {number} says {number * 7}")
    return tmp_path


def texts(side):
    return [document.text for document in side]


def test_a_folder_is_split_into_documents_that_do_not_overlap(tmp_path):
    documents = prepare_documents(spec(many(tmp_path), calibration=8), tmp_path)
    assert len(documents.calibration) == 8
    assert len(documents.evaluation) == 12
    assert not set(texts(documents.calibration)) & set(texts(documents.evaluation))
    assert documents == prepare_documents(spec(tmp_path, calibration=8), tmp_path)
    assert documents.description["groups"] == [8, 12]
    assert documents.description["digest"] == documents.digest


def test_the_split_follows_content_and_seed_and_not_names(tmp_path):
    first = prepare_documents(spec(many(tmp_path), calibration=8), tmp_path)
    for path in sorted(tmp_path.glob("*.txt")):
        path.rename(path.with_name(f"{99 - int(path.stem)}.txt"))
    renamed = prepare_documents(spec(tmp_path, calibration=8), tmp_path)
    assert texts(renamed.calibration) == texts(first.calibration)
    assert texts(prepare_documents(spec(tmp_path, calibration=8, seed=1), tmp_path).calibration) != texts(first.calibration)


def test_one_more_document_moves_at_most_one_other(tmp_path):
    before = {*texts(prepare_documents(spec(many(tmp_path), calibration=8), tmp_path).calibration)}
    (tmp_path / "more.txt").write_text("one more")
    after = {*texts(prepare_documents(spec(tmp_path, calibration=8), tmp_path).calibration)}
    assert len(before - after) <= 1


def test_what_is_there_twice_counts_once_and_white_space_makes_no_difference(tmp_path):
    many(tmp_path, 4)
    (tmp_path / "again.txt").write_text("document  3\n says 21\n")
    (tmp_path / "empty.txt").write_text(" \n")
    description = prepare_documents(spec(tmp_path), tmp_path).description
    assert (description["left_out_as_duplicates"], description["left_out_as_empty"]) == (1, 1)
    assert description["calibration"] + description["evaluation"] == 4


def test_two_sources_share_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    many(tmp_path / "a", 4)
    many(tmp_path / "b", 6)
    documents = prepare_documents(spec("a"), tmp_path, evaluation="b")
    assert sorted(texts(documents.evaluation)) == ["document 4 says 28", "document 5 says 35"]
    assert documents.description["left_out_as_duplicates"] == 4
    with pytest.raises(UserError, match="a has the same documents as a"):
        prepare_documents(spec("a"), tmp_path, evaluation="a")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("one\n\ntwo", ["one\n\ntwo"]),
        ("one\n\n\ntwo\n\n\n\nthree", ["one", "two", "three"]),
        ("one\n\n\nstill one\ftwo", ["one\n\n\nstill one", "two"]),
        ("\ufeffone\r\n\r\n\r\ntwo", ["one", "two"]),
    ],
)
def test_what_parts_the_documents_of_a_text_file(tmp_path, content, expected):
    path = tmp_path / "a.md"
    path.write_bytes(content.encode())
    assert [document.text for document in module._of_file(path, "a.md", spec(path))] == expected


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", pytest.param("a.parquet", marks=pytest.mark.slow)])
def test_tables(tmp_path, name):
    rows = [{"id": str(number), "text": f"text\n{number}"} for number in range(6)]
    path = tmp_path / name
    if name == "a.jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif name == "a.json":
        path.write_text(json.dumps({"data": rows}))
    elif name == "a.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        separator = "," if name == "a.csv" else "\t"
        path.write_text(f"id{separator}text\n" + "".join(f'{row["id"]}{separator}"{row["text"]}"\n' for row in rows))
    documents = prepare_documents(spec(name, calibration=2), tmp_path)
    assert sorted(texts((*documents.calibration, *documents.evaluation))) == [row["text"] for row in rows]
    assert documents.calibration[0].name.startswith(f"{name} row ")


def test_a_column_is_named_and_a_group_stays_together(tmp_path):
    rows = [{"body": f"text {number}", "title": "t", "author": f"author {number % 5}"} for number in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = spec("a.jsonl", calibration=2, group="author", text=TextSpec(columns=("body",)))
    documents = prepare_documents(asked, tmp_path)
    assert documents.description["groups"] == [2, 3]
    sides = [{document.group for document in side} for side in (documents.calibration, documents.evaluation)]
    assert not sides[0] & sides[1]
    with pytest.raises(UserError, match="has no column text"):
        prepare_documents(spec("a.jsonl"), tmp_path)
    with pytest.raises(UserError, match="has no column boddy"):
        prepare_documents(spec("a.jsonl", text=TextSpec(columns=("boddy",))), tmp_path)


def test_chats_become_text_by_the_template(tmp_path):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    foreign = [{"from": "human", "value": "Who?"}]
    lines = [{"messages": chat}, {"messages": foreign}, {"messages": [{"role": "user"}]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines[:2])))
    documents = prepare_documents(spec("a.jsonl"), tmp_path)
    assert documents.description["chats"] == 2

    def render(messages):
        return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"

    whole = rendered((*documents.calibration, *documents.evaluation, Document("n", "n", "as it is")), render)
    assert sorted(texts(whole)) == ["<user>Hi<assistant>Hello", "<user>Who?<assistant>", "as it is"]
    (tmp_path / "a.jsonl").write_text(json.dumps(lines[2]))
    with pytest.raises(UserError, match="a message has no role or no content"):
        prepare_documents(spec("a.jsonl"), tmp_path)


def test_a_long_document_is_one_witness_in_pieces(tmp_path):
    many(tmp_path, 12)
    (tmp_path / "long.txt").write_text("\n\n".join(f"paragraph {number} " + "word " * 40 for number in range(300)))
    documents = prepare_documents(spec(tmp_path, calibration=6), tmp_path)
    pieces = [
        document for side in (documents.calibration, documents.evaluation) for document in side if "piece" in document.name
    ]
    assert len(pieces) > 3
    assert {piece.group for piece in pieces} == {"long.txt"}
    assert all(len(piece.text) <= module._PIECE and piece.text.startswith("paragraph") for piece in pieces)
    assert documents.description["cut_into_pieces"] == 1
    assert documents.description["assumed"] == []


def test_one_long_document_is_enough_and_it_is_said_what_is_assumed(tmp_path):
    (tmp_path / "book.txt").write_text(" ".join(f"word{number}" for number in range(20_000)))
    documents = prepare_documents(spec("book.txt"), tmp_path)
    assert len({document.group for document in documents.evaluation}) == len(documents.evaluation) > 2
    assert documents.description["assumed"] == [
        "pieces of 16384 characters of a long document are taken as documents: there are fewer than 10"
    ]
    everything = " ".join(texts((*documents.calibration, *documents.evaluation)))
    assert sorted(everything.split()) == sorted(f"word{number}" for number in range(20_000))


def test_more_than_is_read_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    monkeypatch.setattr(plain_rows, "MOST_BYTES", 100)
    (tmp_path / "a.txt").write_text("words and more wörds\n\n\n" * 50)
    many(tmp_path, 6)
    assert "only the first" in prepare_documents(spec(tmp_path), tmp_path).description["note"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9 " * 9, "a.txt is not UTF-8: byte 3 is 0xe9"),
        ("a.txt", b"PK\x03\x04\0\0", "a.txt is no text: there are zero bytes"),
        ("a.txt", b" \n\t", "there is no text in"),
        ("a.txt", b"short", "too little to calibrate"),
        ("a.png", b"x", "do not know how to read text from"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2 is no JSON"),
        ("a.jsonl", b'{"text": 3}', "text is int, and neither"),
        ("a.jsonl", b"[1]", "line 1 is no JSON object"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1 is not UTF-8"),
        ("a.json", b"[" * 100_000, "is no JSON"),
        ("a.csv", b"text\n\xff", "a.csv is not UTF-8"),
        ("a.csv", b"\0", "no text"),
        pytest.param("a.parquet", b"PAR1 no", "cannot read a.parquet", marks=pytest.mark.slow),
    ],
)
def test_hostile_files_are_named(tmp_path, name, content, message):
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare_documents(spec(name), tmp_path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such data"):
        prepare_documents(spec("nothing"), tmp_path)
    with pytest.raises(UserError, match="there is no text file in"):
        prepare_documents(spec("."), tmp_path)
    with pytest.raises(UserError, match="needs real text"):
        prepare_documents(spec("random"), tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match="has no column author"):
        prepare_documents(spec("a.txt", group="author"), tmp_path)


def test_halves_of_surrogate_pairs_do_not_reach_a_tokenizer(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud800 b"}\n{"text": "c"}')
    documents = prepare_documents(spec("a.jsonl"), tmp_path)
    assert sorted(texts((*documents.calibration, *documents.evaluation))) == ["a \ufffd b", "c"]


def test_a_document_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Document("a", "a", "text").text = "other"  # type: ignore[misc]
