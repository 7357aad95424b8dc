from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.passes.language._importance import Sums, read_importance, write_importance
from tests.gguf_files import LLAMA, write_gguf


def _matrix(path: Path, **changes: tuple[np.ndarray, int]) -> Path:
    tensors = {
        "blk.0.ffn_up.weight.in_sum2": (np.array([[8.0, 2.0, 4.0]]), 0),
        "blk.0.ffn_up.weight.counts": (np.array([[2.0]]), 0),
        "blk.0.ffn_up_exps.weight.in_sum2": (np.array([[8.0, 4.0], [0.0, 0.0]]), 0),
        "blk.0.ffn_up_exps.weight.counts": (np.array([[4.0], [0.0]]), 0),
    }
    return write_gguf(path, {"general.type": "imatrix"}, {**tensors, **changes})


def test_means_of_squares(tmp_path: Path) -> None:
    means = read_importance(_matrix(tmp_path / "imatrix.gguf"))
    assert means["blk.0.ffn_up.weight"].tolist() == [[4, 1, 2]]
    assert means["blk.0.ffn_up_exps.weight"].tolist() == [[2, 1], [1, 1]], "an expert that saw nothing has ones"


def test_another_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no importance matrix"):
        read_importance(write_gguf(tmp_path / "model.gguf", LLAMA))


def test_sums_without_counts(tmp_path: Path) -> None:
    tensors = {"a.weight.in_sum2": (np.ones((1, 2)), 0)}
    with pytest.raises(UserError, match=r"a\.weight\.counts is missing"):
        read_importance(write_gguf(tmp_path / "imatrix.gguf", {"general.type": "imatrix"}, tensors))


def test_what_is_not_finite(tmp_path: Path) -> None:
    path = _matrix(tmp_path / "imatrix.gguf", **{"blk.0.ffn_up.weight.in_sum2": (np.array([[np.inf, 1, 1]]), 0)})
    with pytest.raises(UserError, match="no numbers"):
        read_importance(path)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    sums = {"a.weight": Sums(np.array([[2.0, 4.0]]), np.array([2])), "b.weight": Sums(np.ones((2, 3)), np.array([1, 0]))}
    write_importance(tmp_path / "imatrix.gguf", sums, windows=1, length=2)
    means = read_importance(tmp_path / "imatrix.gguf")
    assert means["a.weight"].tolist() == [[1, 2]]
    assert means["b.weight"].tolist() == [[1, 1, 1], [1, 1, 1]]
