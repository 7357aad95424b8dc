"""Files of tensors, written in pieces and read by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.checkpoint import open_checkpoint
from tests.language_models import TinyModel, load_tensors

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")


def test_what_is_written_is_what_others_read(tmp_path: Path) -> None:
    from mopt.passes.language._tensors import Copied, write_tensors

    checkpoint = open_checkpoint(TinyModel().write(tmp_path / "source"))
    values = {
        "a": torch.arange(3, dtype=torch.uint8), "b": torch.linspace(-1, 1, 6).reshape(2, 3),
        "c": torch.ones(3, 2).to(torch.float8_e4m3fn), "d": torch.ones(2).bfloat16(),
        "norm": Copied(checkpoint, "model.norm.weight"),
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    write_tensors(tmp_path / "out" / "x.safetensors", values)
    read = load_tensors(tmp_path / "out")
    assert {name: (value.shape, str(value.dtype)) for name, value in read.items()} == {
        "a": ((3,), "uint8"), "b": ((2, 3), "float32"), "c": ((3, 2), "float8_e4m3fn"), "d": ((2,), "bfloat16"),
        "norm": ((128,), "bfloat16"),
    }  # fmt: skip
    assert np.array_equal(read["b"], values["b"].numpy())
    assert read["norm"].tobytes() == load_tensors(tmp_path / "source")["model.norm.weight"].tobytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.safetensors"]


def test_rows_are_those_of_the_whole_tensor(tmp_path: Path) -> None:
    from mopt.passes.language._tensors import read_rows, read_tensor

    checkpoint = open_checkpoint(TinyModel().write(tmp_path / "source"))
    rows = [5, 0, 77]
    whole = read_tensor(checkpoint, "model.embed_tokens.weight").float()
    assert torch.equal(read_rows(checkpoint, "model.embed_tokens.weight", rows), whole[rows])


def test_a_file_that_has_become_shorter_is_told(tmp_path: Path) -> None:
    from mopt.passes.language._tensors import read_tensor

    checkpoint = open_checkpoint(TinyModel().write(tmp_path / "source"))
    path = tmp_path / "source" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="ends before"):
        read_tensor(checkpoint, "lm_head.weight")
