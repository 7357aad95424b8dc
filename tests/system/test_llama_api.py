import ctypes
from importlib import metadata

import pytest

from mopt.errors import CandidateRejectedError
from mopt.system.llama_api import Batch, ContextParams, ModelParams, Tensor, open_library


def test_sizes_are_those_that_a_compiler_gives() -> None:
    # sizeof of the structures of llama.cpp build 11549 with g++ 12 on x86-64.
    sizes = [ctypes.sizeof(structure) for structure in (ModelParams, ContextParams, Batch, Tensor)]
    assert sizes == [80, 168, 56, 336]


def test_a_batch_of_consecutive_tokens() -> None:
    batch = Batch.of([7, 8, 9], 4, last_only=True)
    assert batch.n_tokens == 3
    assert batch.token[:3] == [7, 8, 9]
    assert batch.pos[:3] == [4, 5, 6]
    assert batch.logits[:3] == [0, 0, 1]
    assert [batch.seq_id[index][0] for index in range(3)] == [0, 0, 0]
    assert Batch.of([1, 2], 0).logits[:2] == [1, 1]


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2027.1.1")
    with pytest.raises(CandidateRejectedError, match=r"is 2027\.1\.1; this mopt knows"):
        open_library.__wrapped__()
