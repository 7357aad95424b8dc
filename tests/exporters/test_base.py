import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from mopt.datasets.spec import SourceDefaults
from mopt.errors import CandidateRejectedError, MissingDependencyError
from mopt.exporters._base import (
    Exporter,
    apply_in_child,
    brought_in_child,
    reference_in_child,
    rename_inputs,
    rename_outputs,
    require,
    run_onnxruntime,
)
from mopt.model.signature import Feed
from mopt.passes._base import PassResult
from tests.exporters.cases import LINEAR, graph, rows, write


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubles(Exporter):
    """Doubles what it is given."""

    accepts: ClassVar[str] = "a test"
    caution: bool = False

    @classmethod
    def matches(cls, source: str) -> bool:
        return False

    def files(self) -> dict[str, Path]:
        return {"program": Path(self.source)}

    def apply(self, folder: Path) -> PassResult:
        if self.caution:
            raise ValueError("no model today")
        onnx.save(parser.parse_model(graph("float[N] x", "float[N] y", "{ y = Add(x, x) }")), folder / "model.onnx")
        return PassResult(True, {"read": []})

    def brings(self) -> SourceDefaults:
        return SourceDefaults(classes=("cat", "dog"))

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        return [{"y": 2 * feed["x"]} for feed in feeds]


@pytest.mark.slow
def test_what_belongs_to_a_source_comes_with_its_export_or_alone(tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    (tmp_path / "out").mkdir()
    exporter = Doubles(source=str(tmp_path / "p"))
    assert apply_in_child(exporter, tmp_path / "out").brings == {"classes": ["cat", "dog"]}
    assert brought_in_child(exporter) == SourceDefaults(classes=("cat", "dog"))
    assert brought_in_child(write(tmp_path, LINEAR)) == SourceDefaults()
    assert exporter.with_dynamic_axes({"x": {0: "n"}}) is None


def test_the_digest_is_that_of_the_bytes_wherever_they_lie(tmp_path: Path) -> None:
    digests = []
    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p").write_text(text)
        digests.append(Doubles(source=str(tmp_path / folder / "p")).digest())
    assert digests[0] == digests[1] != digests[2]
    (tmp_path / "read").write_text("1")
    read = [str(tmp_path / "read")]
    first = Doubles(source=str(tmp_path / "a" / "p")).digest(read)
    (tmp_path / "read").write_text("2")
    assert Doubles(source=str(tmp_path / "a" / "p")).digest(read) != first != digests[0]


def test_the_key_has_the_options_and_not_the_source() -> None:
    assert Doubles(source="a").key() == Doubles(source="b").key()
    assert Doubles(source="a").key() != Doubles(source="a", caution=True).key()


@pytest.mark.slow
def test_a_child_exports_and_answers(tmp_path: Path) -> None:
    exporter = Doubles(source=str(tmp_path / "p"))
    written = apply_in_child(exporter, tmp_path)
    assert (written.result, written.opset) == (PassResult(True, {"read": []}), 17)
    assert [str(value) for value in (*written.signature.inputs, *written.signature.outputs)] == [
        "x: float32[N]",
        "y: float32[N]",
    ]
    feeds = rows(3, count=2)
    for answer, expected in zip(
        reference_in_child(exporter, feeds), run_onnxruntime(tmp_path / "model.onnx", feeds), strict=True
    ):
        np.testing.assert_array_equal(answer["y"], expected["y"], strict=True)


@pytest.mark.slow
def test_what_a_child_raises_rejects_the_export(tmp_path: Path) -> None:
    with pytest.raises(CandidateRejectedError, match="no model today"):
        apply_in_child(Doubles(source="p", caution=True), tmp_path)


def test_renaming_frees_a_name_that_is_taken_inside(tmp_path: Path) -> None:
    text = graph("float[N, 2] a", "float[N, 2] c", "{ scores = Relu(a)  x = Neg(scores)  c = Add(x, scores) }")
    model = ir.serde.deserialize_model(parser.parse_model(text))
    feed = np.float32([[1, -2]])
    rename_inputs(model, {"a": "x"})
    rename_outputs(model, {"c": "scores"})
    ir.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    (answer,) = run_onnxruntime(tmp_path / "model.onnx", [{"x": feed}])
    assert answer["scores"].tolist() == [[0, 0]]


def test_a_library_that_is_not_installed_is_named_with_the_extra() -> None:
    assert require("json", "any").__name__ == "json"
    with pytest.raises(MissingDependencyError, match="no_such_library is not installed") as caught:
        require("no_such_library.deep", "torch")
    assert caught.value.hint == "pip install 'mopt[torch]'"


def test_a_model_runs_as_it_is_written(tmp_path: Path) -> None:
    path = Path(write(tmp_path, LINEAR).source)
    (answer,) = run_onnxruntime(path, [{"x": np.float32([[1, 1, 1]])}])
    assert answer["y"].tolist() == [[9, 12]]
