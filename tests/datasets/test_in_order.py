import json

import numpy as np
import pytest

from mopt.datasets.in_order import read_in_order
from mopt.datasets.spec import DataSpec, SourceDefaults
from mopt.errors import UserError
from mopt.model.signature import Signature, TensorSpec
from mopt.system.store import Store

SIGNATURE = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 2)),), outputs=(), batch_axes={"x": 0})


def read(tmp_path, path, **changes):
    spec = DataSpec(path=str(path), **changes)
    return list(read_in_order(spec, SIGNATURE, Store(tmp_path / "cache"), SourceDefaults()))


def test_samples_come_as_they_stand_repeated_ones_too(tmp_path):
    rows = np.float32([[3, 1], [1, 2], [1, 2], [np.nan, 0]])
    np.savez(tmp_path / "a.npz", x=rows, label=[0, 1, 1, 0])
    feeds = read(tmp_path, tmp_path / "a.npz")
    assert np.array_equal(np.concatenate([feed["x"] for feed in feeds]), rows, equal_nan=True)


def test_a_single_one_is_enough(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.float32([[3, 1]]))
    assert len(read(tmp_path, tmp_path / "a.npz")) == 1


def test_columns_of_the_recipe_are_taken_unless_the_inputs_are_there_already(tmp_path):
    rows = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    feeds = read(tmp_path, tmp_path / "a.jsonl", columns={"x": ("b", "a")})
    assert [feed["x"].tolist() for feed in feeds] == [[[2, 1]], [[4, 3]]]
    np.savez(tmp_path / "ready.npz", x=np.float32([[5, 6]]))
    ready = read(tmp_path, tmp_path / "ready.npz", columns={"x": ("b", "a")})
    assert ready[0]["x"].tolist() == [[5, 6]]


def test_what_does_not_fit_the_model_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.float32([[3, 1, 2]]))
    with pytest.raises(UserError, match="does not fit"):
        read(tmp_path, tmp_path / "a.npz")
