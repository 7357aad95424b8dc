import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mopt.datasets.readers._base import Reader
from mopt.datasets.spec import DataSpec, ImageSpec
from mopt.errors import UserError
from mopt.model.signature import TensorSpec
from mopt.system import plugins

Opener = Callable[..., Reader]

X = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)
LABELS = np.arange(10) % 3


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    def open_it(path: Path, *inputs: TensorSpec, **values: Any) -> Reader:
        scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        kinds = [plugins.load("readers", name) for name in plugins.names("readers")]
        (kind,) = [kind for kind in kinds if kind.matches(path)]
        reader: Reader = kind(path, DataSpec(path=str(path), **values), inputs or (X,), scratch)
        return reader

    return open_it


@pytest.mark.parametrize("name", plugins.names("readers"))
def test_every_reader_is_documented(name: str) -> None:
    kind = plugins.load("readers", name)
    assert issubclass(kind, Reader)
    assert kind.__doc__
    assert kind.accepts


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path: Path, opened: Opener, save: Callable[..., None], order: Any) -> None:
    save(tmp_path / "d.npz", x=np.asarray(ROWS, order=order), y=LABELS, note=np.array("free"))
    reader = opened(tmp_path / "d.npz")
    assert (len(reader), reader.columns, reader.labels) == (10, ("x", "note"), LABELS.tolist())
    np.testing.assert_array_equal(reader.read(7, ("x",))["x"], ROWS[7])
    assert reader.name(7) == "d.npz[7]"


def test_npz_label_is_found_by_name_unless_it_is_an_input(tmp_path: Path, opened: Opener) -> None:
    np.savez(tmp_path / "d.npz", x=ROWS, y=LABELS, target=LABELS + 5)
    assert opened(tmp_path / "d.npz", label="target").labels == (LABELS + 5).tolist()
    both = opened(tmp_path / "d.npz", X, TensorSpec(name="y", dtype="int64", shape=("batch",)))
    assert both.labels is None
    with pytest.raises(UserError, match=r"d.npz has no label targt") as caught:
        assert opened(tmp_path / "d.npz", label="targt").labels
    assert "target" in caught.value.hint


def test_labels_may_be_words_or_lists(tmp_path: Path, opened: Opener) -> None:
    np.savez(tmp_path / "words.npz", x=ROWS, label=np.array(list("abcdefghij")))
    np.savez(tmp_path / "lists.npz", x=ROWS, label=ROWS[:, :2])
    assert opened(tmp_path / "words.npz").labels == list("abcdefghij")
    assert opened(tmp_path / "lists.npz").labels == ROWS[:, :2].tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": ROWS, "y": LABELS[:9]}, "d.npz: y has 9 labels for 10 samples"),
        ({"x": ROWS, "y": np.where(LABELS == 1, np.nan, 0.5)}, "d.npz: sample 1 has no label"),
        ({"x": np.float32(3), "y": LABELS}, "d.npz: x is a single number"),
    ],
    ids=["count", "nan", "scalar"],
)
def test_npz_that_does_not_add_up(tmp_path: Path, opened: Opener, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UserError, match=message):
        assert opened(tmp_path / "d.npz").labels


def test_npz_with_python_objects_is_not_unpickled(tmp_path: Path, opened: Opener) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(UserError, match=r"d.npz: x holds Python objects"):
        len(opened(tmp_path / "d.npz"))
    np.savez(tmp_path / "l.npz", x=ROWS, y=np.array([{"a": 1}] * 10, dtype=object))
    with pytest.raises(UserError, match=r"l.npz: y is not a whole NumPy array of numbers"):
        assert opened(tmp_path / "l.npz").labels


def test_npz_that_is_cut_off_or_something_else(tmp_path: Path, opened: Opener) -> None:
    np.savez(tmp_path / "d.npz", x=ROWS)
    data = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped.npz").write_bytes(data.replace(ROWS[5].tobytes(), ROWS[4].tobytes()))
    with pytest.raises(UserError, match=r"cut.npz is not a whole .npz file"):
        len(opened(tmp_path / "cut.npz"))
    with pytest.raises(UserError, match=r"flipped.npz is damaged at the array x"):
        len(opened(tmp_path / "flipped.npz"))


def _folder(path: Path, **arrays: np.ndarray) -> Path:
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def test_npy_folder_with_a_file_for_each_input(tmp_path: Path, opened: Opener) -> None:
    second = TensorSpec(name="z", dtype="int64", shape=("batch",))
    reader = opened(_folder(tmp_path / "d", x=ROWS, z=LABELS, labels=LABELS + 1), X, second)
    assert (len(reader), reader.columns, reader.labels) == (10, ("x", "z"), (LABELS + 1).tolist())
    assert reader.read(3, ("x", "z"))["z"] == LABELS[3]


@pytest.mark.parametrize(
    "text",
    ["file,label\nb.npy,2\na.npy,1\n", "b,2\na,1\n", "label\n1\n2\n", "1\n2\n"],
    ids=["header", "stems", "one-column", "bare"],
)
def test_npy_folder_with_a_file_for_each_sample(tmp_path: Path, opened: Opener, text: str) -> None:
    folder = _folder(tmp_path / "d", a=ROWS[0], b=ROWS[1])
    (folder / "labels.csv").write_text(text)
    reader = opened(folder)
    assert (len(reader), reader.columns, reader.labels, reader.name(1)) == (2, ("x",), [1, 2], "b.npy")
    np.testing.assert_array_equal(reader.read(1, ("x",))["x"], ROWS[1])


def test_npy_folder_mistakes(tmp_path: Path, opened: Opener) -> None:
    folder = _folder(tmp_path / "d", a=ROWS[0], b=ROWS[1])
    (folder / "labels.csv").write_text("file,label\na.npy,1\n")
    with pytest.raises(UserError, match=r"labels.csv has no label for b.npy"):
        assert opened(folder).labels
    (folder / "labels.csv").write_text("1\n2\n3\n")
    with pytest.raises(UserError, match=r"labels.csv has 3 labels for 2 samples"):
        assert opened(folder).labels
    (folder / "b.npy").write_bytes((folder / "b.npy").read_bytes()[:-3])
    with pytest.raises(UserError, match=r"b.npy is not a whole NumPy array"):
        opened(folder).read(1, ("x",))
    whole = _folder(tmp_path / "w", x=ROWS)
    (whole / "x.npy").write_bytes((whole / "x.npy").read_bytes()[:-3])
    with pytest.raises(UserError, match=r"x.npy is cut off"):
        len(opened(whole))


def _pictures(folder: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / name)
    return folder


def test_image_folders_are_classes_in_order_of_name(tmp_path: Path, opened: Opener) -> None:
    folder = _pictures(tmp_path / "d", "dog/1.png", "cat/2.jpg", "cat/deep/3.png", "ant/4.bmp")
    (folder / "cat" / "notes.txt").write_text("no picture")
    (folder / ".cache").mkdir()
    reader = opened(folder, image=ImageSpec())
    assert reader.classes == ("ant", "cat", "dog")
    assert [reader.name(index) for index in range(4)] == ["ant/4.bmp", "cat/2.jpg", "cat/deep/3.png", "dog/1.png"]
    assert reader.labels == [0, 1, 1, 2]


def test_flat_image_folders_have_no_labels(tmp_path: Path, opened: Opener) -> None:
    reader = opened(_pictures(tmp_path / "d", "1.png", "2.png"), image=ImageSpec())
    assert (len(reader), reader.labels, reader.classes) == (2, None, ())
    bare = opened(tmp_path / "d")
    with pytest.raises(UserError, match="nothing says how to make arrays"):
        bare.read(0, bare.columns)


RECORDS = [{"text": f"sentence {i}", "score": i / 2, "pair": [i, i + 1], "label": i % 3} for i in range(10)]


def _table(tmp_path: Path, kind: str) -> Path:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(RECORDS)
    path = tmp_path / f"table.{kind}"
    if kind in ("csv", "tsv"):
        table.remove_columns("pair").to_csv(path, sep="\t" if kind == "tsv" else ",")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        table.save_to_disk(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "saved"])
def test_tables(tmp_path: Path, opened: Opener, kind: str) -> None:
    reader = opened(_table(tmp_path, kind))
    assert len(reader) == 10
    assert reader.labels == [record["label"] for record in RECORDS]
    assert reader.read(4, ("text", "score")) == {"text": "sentence 4", "score": 2.0}
    assert reader.name(4).endswith("row 5")
    if kind in ("jsonl", "parquet", "saved"):
        assert reader.read(4, ("pair",)) == {"pair": [4, 5]}


def test_tables_never_go_to_the_network_or_the_users_cache(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")) / "datasets"
    before = sorted(home.rglob("*")) if home.exists() else []
    assert len(opened(_table(tmp_path, "csv"))) == 10
    assert (sorted(home.rglob("*")) if home.exists() else []) == before


def test_a_saved_dataset_knows_its_classes(tmp_path: Path, opened: Opener) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"x": [0.0, 1.0], "label": [0, 1]}, features=features)
    table.save_to_disk(tmp_path / "d")
    reader = opened(tmp_path / "d")
    assert (reader.labels, reader.classes) == ([0, 1], ("no", "yes"))
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "many")
    with pytest.raises(UserError, match="holds several splits") as caught:
        len(opened(tmp_path / "many"))
    assert "train" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [("d.parquet", b"PAR1 no"), ("d.jsonl", b'{"a": 1}\n{"a":'), ("d.csv", b""), ("e.csv", b"a,b\n1,2\n1,2,3,4\n")],
    ids=["parquet", "jsonl", "empty", "ragged"],
)
def test_broken_tables(tmp_path: Path, opened: Opener, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"cannot read .*{name}") as caught:
        len(opened(tmp_path / name))
    assert "\n" not in caught.value.message


def test_empty_cells_are_named(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "d.jsonl").write_text('{"x": 1.0, "label": 1}\n{"x": null, "label": null}\n')
    reader = opened(tmp_path / "d.jsonl")
    with pytest.raises(UserError, match=r"d.jsonl row 2: x is empty"):
        reader.read(1, ("x",))
    with pytest.raises(UserError, match=r"d.jsonl: sample 1 has no label"):
        assert reader.labels


FUNCTION = """
import itertools
import numpy as np

def pairs():
    for i in range(10):
        yield {"x": np.full(4, i, np.float32)}, i % 3

def bare():
    return [np.full(4, i, np.float32) for i in range(10)]

def endless():
    for i in itertools.count():
        yield np.full(4, i, np.float32), i

def broken():
    yield np.zeros(4)
    raise RuntimeError("the disk is on fire")

def changing():
    yield {"x": np.zeros(4)}
    yield {"z": np.zeros(4)}

def words():
    yield {"x": "one"}
    yield {"x": ["two", "three"]}

def objects():
    yield {"x": object()}
"""


@pytest.fixture
def function(tmp_path: Path) -> Path:
    (tmp_path / "feed.py").write_text(FUNCTION)
    return tmp_path / "feed.py"


def test_functions_yield_inputs_and_labels(function: Path, opened: Opener) -> None:
    reader = opened(Path(f"{function}:pairs"))
    assert (len(reader), reader.columns, reader.labels) == (10, ("x",), [i % 3 for i in range(10)])
    np.testing.assert_array_equal(reader.read(4, ("x",))["x"], np.full(4, 4))
    assert reader.name(4) == "feed.py:pairs[4]"


def test_functions_may_yield_one_array_for_one_input(function: Path, opened: Opener) -> None:
    reader = opened(Path(f"{function}:bare"))
    assert (len(reader), reader.columns, reader.labels) == (10, ("x",), None)
    with pytest.raises(UserError, match=r"feed.py:bare\[0\] is no dictionary"):
        len(opened(Path(f"{function}:bare"), X, TensorSpec(name="z", dtype="float32", shape=(1,))))


def test_functions_may_be_in_a_package(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "readerpackage").mkdir()
    (tmp_path / "readerpackage" / "feed.py").write_text(FUNCTION)
    assert len(opened(tmp_path / "readerpackage.feed:pairs")) == 10


def test_functions_are_read_up_to_what_is_needed(function: Path, opened: Opener) -> None:
    assert len(opened(Path(f"{function}:endless"), calibration=5, evaluation=7)) == 12


def test_words_from_a_function(function: Path, opened: Opener) -> None:
    reader = opened(Path(f"{function}:words"))
    assert reader.read(0, ("x",))["x"] == "one"
    assert reader.read(1, ("x",))["x"].tolist() == ["two", "three"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"feed.py:broken \(sample 1\) raised RuntimeError: the disk is on fire"),
        ("missing", r"feed.py has no function missing"),
        ("objects", r"feed.py:objects\[0\]: x is no array of numbers"),
    ],
)
def test_functions_that_go_wrong(function: Path, opened: Opener, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        len(opened(Path(f"{function}:{name}")))
    if name == "broken":
        line = FUNCTION.splitlines().index('    raise RuntimeError("the disk is on fire")') + 1
        assert caught.value.hint.endswith(f"feed.py:{line}")


def test_functions_that_change_their_mind(function: Path, opened: Opener) -> None:
    with pytest.raises(UserError, match=r"feed.py:changing\[1\] lacks x"):
        opened(Path(f"{function}:changing")).read(1, ("x",))


def test_functions_whose_file_does_not_import(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"importing bad.py raised SyntaxError") as caught:
        len(opened(Path(f"{tmp_path}/bad.py:f")))
    assert caught.value.hint.endswith("bad.py:1")
