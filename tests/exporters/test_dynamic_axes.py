from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from mopt.errors import UserError
from mopt.exporters._dynamic_axes import holder, proof_of
from mopt.model.signature import Feed
from tests.exporters.cases import graph

EXAMPLE = {"x": np.arange(12, dtype=np.float32).reshape(1, 4, 3)}
TIME = {"x": {0: "batch", 1: "time"}}


def answering(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sequence[Feed]], Iterable[Feed]]:
    return lambda feeds: ({"y": function(feed["x"])} for feed in feeds)


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    text = graph("float[batch, time, 3] x", "float[batch, time, 3] y", "{ y = Add(x, x) }")
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_an_export_is_proven_at_twice_the_length_or_half(doubling: Path) -> None:
    assert proof_of(answering(lambda x: 2 * x), doubling, EXAMPLE, TIME) == {"dynamic axes": "right at x [1, 8, 3] as well"}

    def short(x: np.ndarray) -> np.ndarray:
        if x.shape[1] > 4:
            raise IndexError("there are 4 positions")
        return 2 * x

    assert proof_of(answering(short), doubling, EXAMPLE, TIME) == {"dynamic axes": "right at x [1, 2, 3] as well"}
    with pytest.raises(UserError, match=r"right at the example's length only; at x \[1, 8, 3\]: output y differs"):
        proof_of(answering(lambda x: x * (2 if x.shape[1] == 4 else 3)), doubling, EXAMPLE, TIME)


def test_an_export_that_does_not_run_at_another_length_is_refused(tmp_path: Path) -> None:
    text = graph("float[batch, time, 3] x", "float[batch, 12] y", "<int64[2] s = {1, 12}> { y = Reshape(x, s) }")
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"at x \[1, 8, 3\]: .*reshape"):
        proof_of(answering(lambda x: x.reshape(1, -1)), tmp_path / "m.onnx", EXAMPLE, TIME)


def test_what_cannot_be_proven_is_told(doubling: Path) -> None:
    noise = np.random.default_rng(0)
    said = proof_of(answering(lambda x: x + noise.random(x.shape)), doubling, EXAMPLE, TIME)
    assert "something else each time" in said["dynamic axes"]

    def refusing(x: np.ndarray) -> np.ndarray:
        raise IndexError

    assert "neither twice nor half" in proof_of(answering(refusing), doubling, EXAMPLE, TIME)["dynamic axes"]


@pytest.mark.slow
def test_the_line_that_holds_a_length_is_named() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'mopt[torch]'")

    class Flattens(torch.nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0], 400).sum(1)

    free = {"x": {1: torch.export.Dim("time")}}
    line = holder(Flattens(), (torch.zeros(2, 100, 4),), {}, free)
    assert line.startswith("test_dynamic_axes.py:")
    assert line.endswith(": return x.reshape(x.shape[0], 400).sum(1)")
    assert holder(torch.nn.ReLU(), (torch.zeros(2, 100, 4),), {}, {"input": {1: torch.export.Dim("time")}}) == ""
