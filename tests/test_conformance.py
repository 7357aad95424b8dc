"""ONNX's own node models through a build: some of them each time, all of them with ``make conformance``."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.errors import UserError
from tests import conformance, models

OPERATORS = (
    "abs", "argmax", "batch_normalization", "concat", "conv", "convtranspose", "dequantizelinear", "einsum", "expand",
    "flatten", "gather", "gemm", "if_", "lstm", "matmul", "nonmaxsuppression", "onehot", "qlinearconv", "reshape", "scan",
    "scatternd", "slice", "topk", "where",
)  # fmt: skip
"""Weights, masks, indices and shapes as inputs; fixed first axes; time first; answers of any number; branches and loops."""


def run(tmp_path: Path, *options: str) -> list[conformance.Ending]:
    command = [sys.executable, "-m", "tests.conformance", "--jobs", "1", "--json", str(tmp_path / "endings.json"), *options]
    ran = subprocess.run(command, cwd=models.REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 wrong, 0 traceback, 0 hung, 0 crashed" in ran.stdout
    return [conformance.Ending(**ending) for ending in json.loads((tmp_path / "endings.json").read_text())]


@pytest.mark.slow
def test_models_of_many_operators_are_right(tmp_path: Path) -> None:
    endings = run(tmp_path, *(word for operator in OPERATORS for word in ("--operator", operator)), "--every", "5")
    counts = conformance.tally(endings)
    assert counts[conformance.RIGHT] > 25
    assert counts[conformance.REFUSED] < counts[conformance.RIGHT] / 10


@pytest.mark.slow
def test_a_build_as_users_do_it_is_right_too(tmp_path: Path) -> None:
    (ending,) = run(
        tmp_path, "--children", "--candidate", "onnxruntime-fp32", "--operator", "gather", "--only", "test_gather_1"
    )
    assert ending.kind == conformance.RIGHT


# How a model may end, with functions in place of a build


class Case:
    """The model ``y = x + x`` as ONNX's tests describe one."""

    name, rtol, atol = "test_twice", 1e-3, 1e-7

    def __init__(self) -> None:
        import onnx
        from onnx import parser

        text = '<ir_version: 8, opset_import: ["" : 17]> g (float[3] x) => (float[3] y) { y = Add(x, x) }'
        self.model: onnx.ModelProto = parser.parse_model(text)
        x = np.arange(3, dtype=np.float32)
        self.data_sets = [([x], [2 * x])]


def answers(factor: float) -> Any:
    def build(folder: Path, feed: Any, check: Any) -> tuple[str, ...]:
        assert len(list(folder.glob("*.npz"))) == 4
        if difference := check([factor * feed["x"]]):
            raise conformance._WrongError(difference)
        return ("a candidate: failed",)

    return build


def raises(error: Exception) -> Any:
    def build(*_: Any) -> tuple[str, ...]:
        raise error

    return build


@pytest.mark.parametrize(
    ("build", "kind", "why"),
    [
        (answers(2), conformance.RIGHT, ""),
        (answers(3), conformance.WRONG, "y differs"),
        (raises(UserError("it is too\nodd", "hint")), conformance.REFUSED, "it is too odd"),
        (raises(ValueError("oh")), conformance.TRACEBACK, "ValueError: oh"),
    ],
)
def test_each_ending_has_its_name(build: Any, kind: str, why: str) -> None:
    ending = conformance.examine(Case(), build)
    assert (ending.kind, ending.name) == (kind, "test_twice")
    assert ending.why.startswith(why)
    assert ending.failed == (("a candidate: failed",) if kind == conformance.RIGHT else ())


def test_what_onnxruntime_does_not_answer_as_expected_is_not_built() -> None:
    case = Case()
    case.data_sets = [([np.ones(3, np.float32)], [np.ones(3, np.float32)])]
    assert conformance.examine(case, raises(ValueError("never"))).kind == conformance.NOT_EXPECTED


def _hangs(*_: Any) -> tuple[str, ...]:
    time.sleep(60)
    return ()


def _crashes(*_: Any) -> tuple[str, ...]:
    os._exit(1)


@pytest.mark.slow
@pytest.mark.parametrize(("build", "kind"), [(_hangs, conformance.HUNG), (_crashes, conformance.CRASHED)])
def test_one_that_hangs_or_crashes_is_told_and_the_next_one_is_built(build: Any, kind: str) -> None:
    told: list[int] = []
    endings = conformance.examine_all([Case(), Case()], build, jobs=1, limit=2, tell=lambda done, _: told.append(done))
    assert [ending.kind for ending in endings] == [kind, kind]
    assert told == [1, 2]


def test_reasons_that_differ_in_numbers_are_one() -> None:
    lines = ["x has 3 rows of [1, 2]", "x has 14 rows of [5]", "another"]
    assert conformance.reasons(lines) == [("x has _ rows of _", 2), ("another", 1)]
    endings = [
        conformance.Ending("a", "refused", "why"),
        conformance.Ending("b", "wrong", "y differs"),
        conformance.Ending("c", "right"),
    ]
    assert list(conformance.report(endings))[:2] == [
        "1 right, 1 refused, 1 wrong, 0 traceback, 0 hung, 0 crashed, 0 not answered by ONNX Runtime as expected",
        "wrong: b: y differs",
    ]
