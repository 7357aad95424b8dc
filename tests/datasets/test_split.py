import collections
import csv
import json
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mopt.datasets import split
from mopt.datasets.mapping import ShapeError
from mopt.datasets.spec import DataSpec, SourceDefaults, TextSpec
from mopt.errors import UserError
from mopt.model.samples import Samples
from mopt.model.signature import Signature, TensorSpec
from mopt.system.store import Store

datasets_of_sklearn = pytest.importorskip("sklearn.datasets")


def _signature(*inputs: tuple[str, str, tuple[int | str, ...]], batch: int | None = None) -> Signature:
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs)
    axes = {spec.name: 0 for spec in specs if spec.shape}
    return Signature(inputs=specs, outputs=(), batch_axes=axes, batch_size=batch)


DIGITS = _signature(("x", "float32", ("batch", 64)))
COUNT = 400
FOUR = _signature(("x", "float32", ("batch", 4)))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    found = datasets_of_sklearn.load_digits()
    np.savez(tmp_path / "digits.npz", x=found.data[:COUNT], y=found.target[:COUNT])
    return tmp_path / "digits.npz"


def _prepare(store: Store, base: Path, signature: Signature, path: Any = "d.npz", **values: Any) -> split.Split:
    return split.prepare(DataSpec.model_validate({"path": str(path), **values}), signature, store, base)


def _contents(samples: Samples) -> set[bytes]:
    return {b"".join(feed[name].tobytes() for name in sorted(feed)) for feed in samples}


def test_digits_are_split_in_proportion(digits: Path, store: Store) -> None:
    found = _prepare(store, digits.parent, DIGITS, "digits.npz")
    assert (len(found.calibration), len(found.evaluation)) == (128, COUNT - 128)
    assert not _contents(found.calibration) & _contents(found.evaluation)
    assert found.calibration[0]["x"].dtype == np.float32
    assert found.calibration[0]["x"].shape == (1, 64)
    counts = collections.Counter(found.calibration.labels)
    assert set(counts) == set(range(10))
    assert max(counts.values()) - min(counts.values()) <= 2
    everything = datasets_of_sklearn.load_digits()
    for feed, label, name in zip(found.evaluation, found.evaluation.labels, found.evaluation.names, strict=True):
        index = int(name.removeprefix("digits.npz[").removesuffix("]"))
        assert label == everything.target[index]
        np.testing.assert_array_equal(feed["x"][0], everything.data[index])
    assert found.description | {"digest": ""} == {
        "source": "digits.npz",
        "reader": "npz",
        "samples": COUNT,
        "calibration": 128,
        "evaluation": COUNT - 128,
        "labelled": True,
        "groups": None,
        "classes": [],
        "assumed": [],
        "left_out_as_duplicates": 0,
        "left_out_with_their_group": 0,
        "note": "",
        "synthetic": False,
        "digest": "",
    }


def test_the_seed_decides(digits: Path, store: Store, tmp_path: Path) -> None:
    def names(seed: int, where: str) -> list[str]:
        return _prepare(Store(tmp_path / where), digits.parent, DIGITS, "digits.npz", seed=seed).calibration.names

    assert names(0, "a") == names(0, "b")
    assert names(0, "a") != names(1, "a")


def test_a_second_call_reads_no_sample(digits: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _prepare(store, digits.parent, DIGITS, "digits.npz")
    monkeypatch.setattr(split, "_write", None)
    assert _prepare(store, digits.parent, DIGITS, "digits.npz") == first
    digits.rename(digits.with_name("other.npz"))
    moved = _prepare(store, digits.parent, DIGITS, "other.npz")
    assert (moved.digest, moved.description["source"]) == (first.digest, "other.npz")


@pytest.mark.parametrize("change", ["data", "spec", "signature"])
def test_anything_that_changes_is_read_again(digits: Path, store: Store, change: str) -> None:
    first = _prepare(store, digits.parent, DIGITS, "digits.npz")
    signature, values = DIGITS, {}
    if change == "data":
        found = datasets_of_sklearn.load_digits()
        np.savez(digits, x=found.data[:COUNT], y=(found.target[:COUNT] + 1) % 10)
    elif change == "spec":
        values = {"calibration": 100}
    else:
        signature = _signature(("x", "float64", ("batch", 64)))
    assert _prepare(store, digits.parent, signature, "digits.npz", **values).digest != first.digest


def test_duplicates_stay_on_one_side(tmp_path: Path, store: Store) -> None:
    rows = np.random.default_rng(0).random((100, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=np.concatenate([rows] * 5))
    found = _prepare(store, tmp_path, FOUR, calibration=50)
    assert not _contents(found.calibration) & _contents(found.evaluation)
    left_out = found.description["left_out_as_duplicates"]
    assert left_out > 0
    assert len(found.calibration) + len(found.evaluation) + left_out == 500


def test_duplicates_are_replaced_while_there_are_others(tmp_path: Path, store: Store) -> None:
    rows = np.random.default_rng(0).random((100, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=np.concatenate([rows] * 5))
    found = _prepare(store, tmp_path, FOUR, calibration=50, evaluation=100)
    assert len(found.evaluation) == 100


@pytest.mark.parametrize(
    ("total", "values", "expected"),
    [
        (1000, {}, (128, 872)),
        (5000, {}, (128, 2000)),
        (5000, {"calibration": 10, "evaluation": 20}, (10, 20)),
        (100, {}, (50, 50)),
        (3, {}, (1, 2)),
        (200, {}, (100, 100)),
        (150, {"evaluation": 50}, (100, 50)),
        (150, {"evaluation": 140}, (75, 75)),
    ],
)
def test_how_many(total: int, values: dict[str, int], expected: tuple[int, int]) -> None:
    counts, note = split._counts(DataSpec(path="d", **values), total)
    assert counts == expected
    asked = {"calibration": 128, "evaluation": 128, **values}
    assert bool(note) == (total < sum(asked.values()))


def test_small_data_says_what_was_done(tmp_path: Path, store: Store) -> None:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((30, 4)))
    found = _prepare(store, tmp_path, FOUR)
    assert (len(found.calibration), len(found.evaluation)) == (15, 15)
    assert found.description["note"] == (
        "only 30 samples: 15 to calibrate with and 15 to evaluate with, instead of 128 and at least 128"
    )


def test_rare_classes_reach_both_sides(tmp_path: Path, store: Store) -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((1000, 4)), y=labels)
    found = _prepare(store, tmp_path, FOUR, calibration=500)
    counts = collections.Counter(found.calibration.labels)
    assert counts[0] == pytest.approx(450, abs=2)
    assert counts[1] == pytest.approx(45, abs=1)
    assert counts[2] == pytest.approx(5, abs=1)


def test_image_folder(tmp_path: Path, store: Store) -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(20):
            picture = random.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{index}.png")
    signature = _signature(("image", "float32", ("batch", 3, 32, 32)))
    found = _prepare(store, tmp_path, signature, "pictures", image={"resize": 36, "crop": 32})
    assert found.calibration[0]["image"].shape == (1, 3, 32, 32)
    told = found.description["image"]
    assert (told["input"], told["resize"], told["crop"], told["layout"], told["mean"]) == ("image", 36, 32, "nchw", [])
    assert found.description["classes"] == ["cat", "dog"]
    assert collections.Counter(found.calibration.labels) == {0: 10, 1: 10}
    for label, name in zip(found.evaluation.labels, found.evaluation.names, strict=True):
        assert name.startswith(("cat", "dog")[label])
    with pytest.raises(UserError, match=r"shape \[3, 40, 40\] does not fit") as caught:
        _prepare(store, tmp_path, signature, "pictures", image={"crop": 40})
    assert "resize" in caught.value.hint


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    package = pytest.importorskip("all_minilm_l6_v2")
    with resources.as_file(resources.files(package) / "model.zip") as file, zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("tokenizer.json"))
        (tmp_path / "tokenizer.json").write_bytes(archive.read(name))
    return tmp_path / "tokenizer.json"


TOKENS = ("batch", "sequence")


def test_sentences_through_a_real_tokenizer(tmp_path: Path, store: Store, tokenizer: Path) -> None:
    with (tmp_path / "reviews.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "stars"])
        writer.writerows([f"the film is {'good ' * (i % 7)}number {i}", i % 2, i / 10] for i in range(60))
    signature = _signature(("input_ids", "int32", TOKENS), ("attention_mask", "int64", TOKENS))
    text = {"tokenizer": "tokenizer.json", "padding": "longest"}
    found = _prepare(store, tmp_path, signature, "reviews.csv", text=text)
    assert len({feed["input_ids"].shape for side in (found.calibration, found.evaluation) for feed in side}) == 1
    first = found.calibration[0]
    assert (first["input_ids"].dtype, first["attention_mask"].dtype) == (np.int32, np.int64)
    assert first["input_ids"][0, :4].tolist() == [101, 1996, 2143, 2003]
    fixed = _signature(("input_ids", "int64", ("batch", 20)))
    padded = _prepare(store, tmp_path, fixed, "reviews.csv", text={"tokenizer": "tokenizer.json", "max_length": 20})
    assert padded.calibration[0]["input_ids"].shape == (1, 20)
    tokenizer.write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer"):
        _prepare(store, tmp_path, signature, "reviews.csv", text=text)


def test_pairs_of_sentences_from_a_function(tmp_path: Path, store: Store, tokenizer: Path) -> None:
    (tmp_path / "feed.py").write_text(
        "def pairs():\n    for i in range(10):\n        yield {'question': 'how many?', 'answer': f'it is {i}'}, i\n"
    )
    signature = _signature(("input_ids", "int64", TOKENS), ("token_type_ids", "int64", TOKENS))
    text = {"tokenizer": "tokenizer.json", "columns": ["question", "answer"], "max_length": 12}
    feed = _prepare(store, tmp_path, signature, "feed.py:pairs", text=text).calibration[0]
    assert feed["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0]]
    with pytest.raises(UserError, match="has 2 text columns: question, answer"):
        _prepare(store, tmp_path, signature, "feed.py:pairs", text={"tokenizer": "tokenizer.json"})
    with pytest.raises(UserError, match="the model has no input ids for the tokens"):
        _prepare(store, tmp_path, signature, "feed.py:pairs", text={**text, "input_ids": "ids"})


def test_words_that_the_model_takes_as_they_are(tmp_path: Path, store: Store) -> None:
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"word": f"w{i}", "label": i % 2}) + "\n" for i in range(10)))
    signature = _signature(("word", "str", ("batch", 1)))
    feed = _prepare(store, tmp_path, signature, "d.jsonl").calibration[0]
    assert feed["word"].shape == (1, 1)
    assert feed["word"][0, 0].startswith("w")
    numbers = _signature(("word", "int64", ("batch", 1)))
    with pytest.raises(UserError, match="word is str, the model takes int64") as caught:
        _prepare(store, tmp_path, numbers, "d.jsonl")
    assert "[data.text]" in caught.value.hint


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_of_numbers_is_a_vector(tmp_path: Path, store: Store, kind: str) -> None:
    datasets = pytest.importorskip("datasets")
    wine = datasets_of_sklearn.load_wine()
    table = datasets.Dataset.from_dict(
        {name: wine.data[:, index] for index, name in enumerate(wine.feature_names)} | {"label": wine.target}
    )
    path = tmp_path / f"wine.{kind}"
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[kind](path)
    signature = _signature(("features", "float32", ("batch", 13)))
    found = _prepare(store, tmp_path, signature, path.name)
    index = int(found.evaluation.names[0].rpartition(" ")[2]) - 1
    np.testing.assert_allclose(found.evaluation[0]["features"][0], wine.data[index], rtol=1e-6)
    assert found.evaluation.labels is not None
    assert found.evaluation.labels[0] == wine.target[index]


def test_columns_say_what_goes_where(tmp_path: Path, store: Store) -> None:
    np.savez(tmp_path / "d.npz", a=np.arange(10.0), b=np.arange(10.0) + 100, pixels=np.arange(40).reshape(10, 4))
    signature = _signature(("x", "float32", ("batch", 4)), ("v", "float32", ("batch", 2)), ("s", "float32", ("batch", 1)))
    found = _prepare(store, tmp_path, signature, columns={"x": "pixels", "v": ["a", "b"], "s": "b"})
    feed = found.calibration[0]
    number = feed["s"][0, 0] - 100
    assert feed["v"].tolist() == [[number, number + 100]]
    assert feed["x"].tolist() == [[4 * number, 4 * number + 1, 4 * number + 2, 4 * number + 3]]


def test_functions_are_run_each_time_and_keyed_by_what_they_yield(tmp_path: Path, store: Store) -> None:
    (tmp_path / "feed.py").write_text(
        "import json, pathlib\nimport numpy as np\n"
        "def samples():\n"
        "    for i in json.loads((pathlib.Path(__file__).parent / 'numbers.json').read_text()):\n"
        "        yield {'x': np.full(4, i, np.float32)}, i % 2\n"
    )
    (tmp_path / "numbers.json").write_text(json.dumps(list(range(20))))
    first = _prepare(store, tmp_path, FOUR, "feed.py:samples")
    assert (len(first.calibration), len(first.evaluation)) == (10, 10)
    assert _prepare(store, tmp_path, FOUR, "feed.py:samples") == first
    assert store.sizes()["data"][0] == 1
    (tmp_path / "numbers.json").write_text(json.dumps(list(range(1, 21))))
    assert _prepare(store, tmp_path, FOUR, "feed.py:samples").digest != first.digest


@pytest.mark.parametrize("shape", [(1, 2**62, 2**62), ("batch", 2**36)], ids=["memory", "disk"])
def test_made_up_samples_that_fit_nowhere_are_refused(tmp_path: Path, store: Store, shape: tuple[int | str, ...]) -> None:
    signature = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=shape),), outputs=(), batch_axes={"x": 0})
    with pytest.raises(UserError, match=r"made-up samples would take .* GB each") as caught:
        _prepare(store, tmp_path, signature, "random")
    assert "--calibration" in caught.value.hint


def test_random_data_has_the_shapes_of_the_model_and_says_what_it_is(tmp_path: Path, store: Store) -> None:
    signature = Signature(
        inputs=(
            TensorSpec(name="image", dtype="float32", shape=("batch", 3, "height", 8)),
            TensorSpec(name="input_ids", dtype="int64", shape=("batch", "tokens")),
            TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "tokens")),
            TensorSpec(name="rate", dtype="int64", shape=()),
        ),
        outputs=(),
        batch_axes={"image": 0, "input_ids": 0, "attention_mask": 0},
    )
    found = _prepare(store, tmp_path, signature, "random", calibration=4, evaluation=6)
    assert found.calibration.synthetic
    assert found.evaluation.synthetic
    assert (len(found.calibration), len(found.evaluation)) == (4, 6)
    feed = found.calibration[0]
    shapes = {name: value.shape for name, value in feed.items()}
    assert shapes == {"image": (1, 3, 32, 8), "input_ids": (1, 32), "attention_mask": (1, 32), "rate": ()}
    assert feed["attention_mask"].all()
    assert found.description["synthetic"] is True
    assert found.description["note"] == "made up; length 32 for height, tokens"
    assert not _contents(found.calibration) & _contents(found.evaluation)


TWO = _signature(("pixels", "float32", ("batch", 4)), ("size", "float32", ("batch", 1)))
ROWS = np.random.default_rng(0).random((20, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("arrays", "values", "message", "hint"),
    [
        (
            {"pixel": ROWS, "size": ROWS[:, :1]},
            {},
            r"d.npz has no pixels: float32\[batch, 4\]; it has: pixel, size",
            "pixel",
        ),
        ({"pixels": ROWS}, {}, r"d.npz has no size: float32\[batch, 1\]; it has: pixels", "columns ="),
        ({"pixels": ROWS, "size": ROWS[:7, :1]}, {}, "size has 7 samples, pixels has 20", "axis 0"),
        ({"pixels": ROWS[:0], "size": ROWS[:0, :1]}, {}, "the data is empty", "two samples"),
        ({"pixels": ROWS[:1], "size": ROWS[:1, :1]}, {}, "the data has one sample", "two samples"),
        ({"pixels": ROWS[:0]}, {}, "the data is empty", "two samples"),
        ({"pixels": np.ones((5, 4)), "size": np.ones((5, 1))}, {}, "have the same content", "differ"),
        ({"pixels": ROWS, "size": ROWS[:, :1]}, {"columns": {"pixls": "a"}}, "the model has no input pixls", "pixels"),
        ({"pixels": ROWS, "size": ROWS[:, :1]}, {"columns": {"pixels": "siz"}}, "d.npz has no column siz", "size"),
        ({"pixels": ROWS, "size": ROWS[:, :1]}, {"label": "sizes"}, "d.npz has no label sizes", "size"),
        (
            {"pixels": ROWS, "size": ROWS[:, :1]},
            {"text": {"tokenizer": "t.json"}},
            "no such tokenizer",
            "tokenizer.json",
        ),
    ],
)
def test_data_that_is_not_for_the_model(
    tmp_path: Path, store: Store, arrays: dict[str, Any], values: dict[str, Any], message: str, hint: str
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        _prepare(store, tmp_path, TWO, **values)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert "data" not in store.sizes() or store.sizes()["data"][0] == 0


def test_a_nan_names_its_sample(tmp_path: Path, store: Store) -> None:
    rows = ROWS.copy()
    rows[13, 2] = np.nan
    np.savez(tmp_path / "d.npz", x=rows)
    with pytest.raises(UserError, match=r"d.npz\[13\]: x has NaN in it"):
        _prepare(store, tmp_path, FOUR)


def test_paths_that_lead_nowhere(tmp_path: Path, store: Store) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in [
        ("missing.npz", "no such data"),
        ("empty", "the data is empty"),
        ("notes.txt", "do not know how to read"),
        ("feed.py:samples", "no such file"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            _prepare(store, tmp_path, FOUR, path)
        assert caught.value.hint


_MEMORY = """
import sys
from pathlib import Path
import numpy
import mopt.system.memory
from mopt.model.signature import Signature, TensorSpec
from mopt.system.store import Store
from mopt.datasets.spec import DataSpec
from mopt.datasets.split import prepare
spec = TensorSpec(name="x", dtype="float32", shape=("batch", 4096))
signature = Signature(inputs=(spec,), outputs=(), batch_axes={"x": 0})
base = Path(sys.argv[1])
prepare(DataSpec(path="d.npz", calibration=int(sys.argv[2]), evaluation=16), signature, Store(base / "s"), base)
import os
print(mopt.system.memory.peak_memory(os.getpid()) >> 20)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((4200, 4096), np.float32))

    def peak(count: int) -> int:
        command = [sys.executable, "-c", _MEMORY, str(tmp_path), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(4096) - peak(64) < 12


@pytest.mark.parametrize("kind", ["npz", "csv", "function"])
def test_a_group_is_on_one_side(tmp_path: Path, store: Store, kind: str) -> None:
    picture = np.arange(120) // 6
    values = np.arange(480, dtype=np.float32).reshape(120, 4)
    if kind == "npz":
        np.savez(tmp_path / "d.npz", x=values, y=picture % 2, picture=picture)
        path, options = "d.npz", {}
    elif kind == "csv":
        with (tmp_path / "d.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(
                [["a", "b", "c", "d", "picture"], *([*row, p] for row, p in zip(values, picture, strict=True))]
            )
        path, options = "d.csv", {"columns": {"x": ["a", "b", "c", "d"]}}
    else:
        (tmp_path / "d.py").write_text(
            "import numpy as np\n"
            "def rows():\n"
            "    for i in range(120):\n"
            "        yield {'x': np.arange(4 * i, 4 * i + 4, dtype='f4'), 'picture': i // 6}\n"
        )
        path, options = "d.py:rows", {}
    found = _prepare(store, tmp_path, FOUR, path, group="picture", calibration=40, **options)
    sides = [found.calibration, found.evaluation]
    for side in sides:
        assert side.groups == [str(int(feed["x"][0, 0]) // 24) for feed in side]
    assert not set(found.calibration.groups) & set(found.evaluation.groups)
    assert [len(side) for side in sides] == [40, 78]  # the last group to calibrate with gave four of six
    assert found.description["groups"] == [7, 13]
    assert found.description["left_out_with_their_group"] == 2


def test_groups_that_do_not_do(tmp_path: Path, store: Store) -> None:
    np.savez(tmp_path / "d.npz", x=np.arange(80, dtype=np.float32).reshape(20, 4), picture=np.zeros(20))
    with pytest.raises(UserError, match=r"no group of .* is left to evaluate with"):
        _prepare(store, tmp_path, FOUR, group="picture", calibration=5)
    with pytest.raises(UserError, match="made-up data has no groups"):
        _prepare(store, tmp_path, FOUR, "random", group="picture")
    with pytest.raises(UserError, match="has no group pictures") as caught:
        _prepare(store, tmp_path, FOUR, group="pictures")
    assert "picture" in caught.value.hint


def _sentiment(folder: Path) -> SourceDefaults:
    """Write a tokenizer, and return what a folder with it brings."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers are an extra: pip install 'mopt[data]'")
    folder.mkdir()
    model = tokenizers.models.WordLevel({"[UNK]": 0, "good": 1, "bad": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    text = TextSpec(tokenizer="tokenizer.json", padding="longest")
    return SourceDefaults(text=text, classes=("NEGATIVE", "POSITIVE"))


def test_what_the_model_brings_completes_what_the_user_says(store: Store, tmp_path: Path) -> None:
    tokens = _signature(("input_ids", "int64", ("batch", "length")))
    moods = {"good": "positive", "bad": "negative"}
    rows = [f"{word * times},,{mood}" for times in range(1, 9) for word, mood in moods.items()]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,notes,label", *rows]).replace("dg", "d g").replace("db", "d b"))
    defaults = _sentiment(tmp_path / "model")
    spec = DataSpec(path="reviews.csv", calibration=4)
    read = split.prepare(spec, tokens, store, tmp_path, defaults.at(tmp_path / "model"))
    assert set(read.evaluation.labels or ()) == {0, 1}
    assert read.evaluation[0]["input_ids"].shape == (1, 8)
    assert read.description["classes"] == ["NEGATIVE", "POSITIVE"]
    assert read.description["assumed"] == [
        "review becomes tokens, up to 128, with the model's tokenizer.json",
        "labels are numbered as the model's classes are: negative is 0, positive is 1",
    ]
    assert read.spec.text is not None
    assert (read.spec.text.columns, read.spec.text.padding) == (("review",), "longest")

    (tmp_path / "model").rename(tmp_path / "moved")
    moved = split.prepare(spec, tokens, store, tmp_path, defaults.at(tmp_path / "moved"))
    assert moved.calibration.folder == read.calibration.folder
    assert moved.spec.text is not None
    assert moved.spec.text.tokenizer == str(tmp_path / "moved" / "tokenizer.json")
    with pytest.raises(UserError, match="no such tokenizer"):
        split.prepare(spec, tokens, store, tmp_path, defaults.at(tmp_path / "model"))


def test_a_shape_that_does_not_fit_names_the_axes_that_would_have_to_be_free(store: Store, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    program = "import numpy\ndef samples():\n    return (numpy.full((4, 5 + i % 3), i) for i in range(9))\n"
    (tmp_path / "d.py").write_text(program)
    np.savez(tmp_path / "d.npz", x=random.random((9, 4, 7)))
    for path in ("d.py:samples", "d.npz"):
        with pytest.raises(ShapeError, match="does not fit the input x") as caught:
            _prepare(store, tmp_path, _signature(("x", "float32", ("batch", 4, 6))), path)
        assert caught.value.axes == {"x": {2: "x_2"}}
    with pytest.raises(ShapeError) as caught:
        _prepare(store, tmp_path, FOUR, "d.npz")
    assert caught.value.axes == {}
