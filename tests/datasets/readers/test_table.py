import json
import os
from pathlib import Path
from typing import Any

import pytest

from mopt.errors import UserError
from tests.datasets.readers.cases import Opener

RECORDS = [{"text": f"sentence {i}", "score": i / 2, "pair": [i, i + 1], "label": i % 3} for i in range(10)]


def _table(tmp_path: Path, kind: str) -> Path:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(RECORDS)
    path = tmp_path / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        table.save_to_disk(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_tables(tmp_path: Path, opened: Opener, kind: str) -> None:
    reader = opened(_table(tmp_path, kind))
    assert len(reader) == 10
    assert reader.labels == [record["label"] for record in RECORDS]
    assert reader.read(4, ("text", "score")) == {"text": "sentence 4", "score": 2.0}
    assert reader.name(4).endswith("row 5")
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
    assert len(opened(_table(tmp_path, "jsonl"))) == 10
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
    [("d.parquet", b"PAR1 no"), ("d.jsonl", b'{"a": 1}\n{"a":')],
    ids=["parquet", "jsonl"],
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
