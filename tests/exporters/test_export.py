import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.exporters import _export as exporting
from mopt.exporters._base import Exporter
from mopt.exporters._export import export, find_exporter, validate_export
from mopt.model.signature import Feed
from mopt.passes._base import PassResult
from mopt.passes.convert_dimensions import ConvertDimensions
from mopt.system.store import Store
from tests.exporters.cases import LINEAR, graph, rows, write

pytestmark = pytest.mark.slow


# Which exporter


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("m.onnx", "onnx"),
        ("M.ONNX", "onnx"),
        ("m.py:function", "torch"),
        ("package.module:function", "torch"),
        ("m.pt2", "torch"),
        ("m.pth", "torch"),
        ("m.skops", "sklearn"),
        ("m.joblib", "sklearn"),
        ("m.ubj", "sklearn"),
        ("m.txt", "sklearn"),
        ("hf/config.json", "huggingface"),
        ("tf/saved_model.pb", "tensorflow"),
    ],
)
def test_each_source_has_its_exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, exporter: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    if ":" not in name:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    source = str(path.parent) if path.parent.name else name
    assert find_exporter(source).name == exporter


def test_trust_goes_to_whom_it_concerns(tmp_path: Path) -> None:
    for name in ("m.pkl", "m.onnx"):
        (tmp_path / name).touch()
    assert find_exporter(str(tmp_path / "m.pkl"), trust_pickle=True).key()["fields"] == {"trust_pickle": True}
    assert find_exporter(str(tmp_path / "m.pkl")).key()["fields"] == {"trust_pickle": False}
    assert "trust_pickle" not in find_exporter(str(tmp_path / "m.onnx"), trust_pickle=True).key()["fields"]


@pytest.mark.parametrize("name", ["missing.onnx", "missing", "missing.zip", "missing.pt2"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"no such file or folder: {name}"):
        find_exporter(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("m.zip", "unpack it"),
        ("m.gguf", "begins with the letters GGUF"),
        ("m.h5", "SavedModel"),
        ("m.safetensors", "config.json"),
        ("m.tflite", "an ONNX file"),
    ],
)
def test_an_unknown_kind_says_what_is_taken(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="is not a model that mopt knows") as caught:
        find_exporter(str(tmp_path / name))
    assert hint in caught.value.hint


def test_a_folder_with_a_model_in_it_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "inner.onnx").touch()
    with pytest.raises(UserError) as caught:
        find_exporter(str(tmp_path))
    assert "inner.onnx" in caught.value.hint


# The store


def test_an_export_is_made_once_and_missed_after_any_change(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = write(tmp_path, LINEAR)
    first = validate_export(export(exporter, store), rows(1, 3), store)
    assert first.record.samples == 4

    def refuse(*_: object) -> None:
        raise AssertionError("it is in the store")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "apply_in_child", refuse)
        again = export(exporter, store)
        assert again.model == export(exporter, store).model
    onnx.save(parser.parse_model(LINEAR.replace("6}", "7}")), exporter.source)
    changed = export(exporter, store)
    assert changed.model.digest != again.model.digest
    assert changed.source_digest != again.source_digest


GROWING = graph(
    "float[N, 3] x",
    "float[N, 3] y",
    "<int64[1] size = {400000000}> { c = ConstantOfShape(size)  m = ReduceMax(c)  y = Add(x, m) }",
)


def test_an_export_that_takes_more_memory_than_allowed_is_refused_and_not_kept(tmp_path: Path, store: Store) -> None:
    exported = export(write(tmp_path, GROWING), store, memory=2**30)
    with pytest.raises(UserError, match=r"does not run on the samples: took .* GB are allowed") as caught:
        validate_export(exported, rows(1, 3), store, memory=2**30)
    assert "--memory" in caught.value.hint
    assert not store.sizes().get("bound", (0, 0))[0]


def test_a_fixed_batch_that_fits_nowhere_is_refused(tmp_path: Path, store: Store) -> None:
    text = graph(f"float[{2**40}, 3] x", f"float[{2**40}, 3] y", "{ y = Relu(x) }")
    with pytest.raises(UserError, match="that the model takes at once would take"):
        validate_export(export(write(tmp_path, text), store), rows(1, 3), store, memory=2**30)


def test_a_comparison_is_made_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    exported, feeds = export(write(tmp_path, LINEAR), store), rows(1, 3)
    first = validate_export(exported, feeds, store)
    calls: list[object] = []
    original = exporting.reference_in_child
    monkeypatch.setattr(exporting, "reference_in_child", lambda *given: calls.append(given) or original(*given))
    assert validate_export(exported, feeds, store) == first
    assert not calls
    validate_export(exported, rows(1, 3), store)
    assert len(calls) == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromProgram(Exporter):
    """Reads a scale from a second file that only a run can know of."""

    accepts: ClassVar[str] = "a test"

    @classmethod
    def matches(cls, source: str) -> bool:
        return False

    def files(self) -> dict[str, Path]:
        return {"program": Path(self.source)}

    def apply(self, folder: Path) -> PassResult:
        second = Path(self.source).with_name("scale.txt")
        count = Path(self.source).with_name("runs.txt")
        count.write_text(f"{int(count.read_text()) + 1 if count.exists() else 1}")
        text = graph("float[N] x", "float[N] y", f"<float[1] s = {{{second.read_text()}}}> {{ y = Mul(x, s) }}")
        onnx.save(parser.parse_model(text), folder / "model.onnx")
        return PassResult(True, {"read": [str(second)]})

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        scale = np.float32(Path(self.source).with_name("scale.txt").read_text())
        return [{"y": feed["x"] * scale} for feed in feeds]


def test_a_file_that_a_program_reads_is_part_of_the_source(tmp_path: Path, store: Store) -> None:
    for name, text in (("program", "p"), ("scale.txt", "2")):
        (tmp_path / name).write_text(text)
    exporter, runs = FromProgram(source=str(tmp_path / "program")), tmp_path / "runs.txt"
    first = export(exporter, store)
    assert export(exporter, store) == first
    assert runs.read_text() == "1"
    (tmp_path / "scale.txt").write_text("3")
    second = export(exporter, store)
    assert runs.read_text() == "2"
    assert second.source_digest != first.source_digest
    assert second.model.digest != first.model.digest
    (tmp_path / "scale.txt").write_text("2")
    assert export(exporter, store) == first
    assert runs.read_text() == "2"
    assert validate_export(first, rows(1), store).record.largest_difference == 0


# Wrong exports


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrong(Exporter):
    """Its first attempt is wrong in the way that ``mode`` says, its cautious one is right."""

    accepts: ClassVar[str] = "a test"
    mode: str
    retry: bool = True

    @classmethod
    def matches(cls, source: str) -> bool:
        return False

    def files(self) -> dict[str, Path]:
        return {"program": Path(self.source)}

    def cautious(self) -> Exporter | None:
        return dataclasses.replace(self, mode="right", retry=False) if self.retry else None

    def apply(self, folder: Path) -> PassResult:
        if self.mode == "raises":
            raise ValueError("the converter is confused")
        scale = {"value": "2.01", "right": "2", "unloadable": "2"}[self.mode]
        body = f"<float[1] s = {{{scale}}}> {{ y = Mul(x, s) }}"
        if self.mode == "unloadable":
            body = body.replace("Mul", "Conv")
        onnx.save(parser.parse_model(graph("float[N, 2] x", "float[N, 2] y", body)), folder / "model.onnx")
        return PassResult(True)

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        return [{"y": feed["x"] * 2} for feed in feeds]


@pytest.mark.parametrize("mode", ["value", "unloadable", "raises"])
def test_a_wrong_export_is_made_again_with_caution(tmp_path: Path, store: Store, mode: str) -> None:
    (tmp_path / "program").write_text("p")
    bound = validate_export(export(Wrong(source=str(tmp_path / "program"), mode=mode), store), rows(1, 2), store)
    assert bound.record.largest_difference == 0
    assert ("opset kept because" in bound.record.detail) == (mode != "raises")


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("value", "export of .* is wrong: output y differs by 0.005 of its largest value"),
        ("unloadable", "ONNX Runtime cannot run it"),
        ("raises", "cannot be exported: ValueError: the converter is confused"),
    ],
)
def test_an_export_that_stays_wrong_is_an_error(tmp_path: Path, store: Store, mode: str, message: str) -> None:
    (tmp_path / "program").write_text("p")
    exporter = Wrong(source=str(tmp_path / "program"), mode=mode, retry=False)
    for _ in range(2):  # a failure that comes from the store is the same
        with pytest.raises(UserError, match=message) as caught:
            validate_export(export(exporter, store), rows(1, 2), store)
        assert caught.value.hint


def test_samples_that_the_source_does_not_take_are_the_users_mistake(tmp_path: Path, store: Store) -> None:
    exported = export(write(tmp_path, LINEAR), store)
    with pytest.raises(UserError, match="does not run on the samples"):
        validate_export(exported, rows(1, 5), store)
    with pytest.raises(UserError, match="no sample"):
        validate_export(exported, [], store)


# What goes wrong


def test_large_weights_stay_outside(tmp_path: Path) -> None:
    path = Path(write(tmp_path, LINEAR).source)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    ir.save(ir.load(path), source / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)
    exporting._rename(ConvertDimensions(), source / "model.onnx", target)
    assert (target / "model.onnx.data").read_bytes() == (source / "model.onnx.data").read_bytes()
    assert not onnx.load(target / "model.onnx", load_external_data=False).graph.initializer[0].raw_data
    onnx.checker.check_model(str(target / "model.onnx"))


def test_a_crash_of_the_source_is_the_users_to_know(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = export(write(tmp_path, LINEAR), store)

    def crash(*_: object) -> list[Feed]:
        raise CandidateRejectedError(Rejection.CRASHED, "the process died of SIGSEGV")

    monkeypatch.setattr(exporting, "reference_in_child", crash)
    with pytest.raises(UserError, match="SIGSEGV"):
        validate_export(exported, rows(1, 3), store)


def test_an_output_whose_declared_size_the_answers_contradict_is_free(tmp_path: Path, store: Store) -> None:
    text = graph("float[4] x, int64[1] k", "float[2] y, int64[2] i", "{ y, i = TopK(x, k) }")
    feeds = [{"x": np.arange(4, dtype=np.float32), "k": np.array([count])} for count in (2, 3)]
    bound = validate_export(export(write(tmp_path, text), store), feeds, store)
    assert [spec.shape for spec in bound.signature.outputs] == [("y_dim0",), ("i_dim0",)]
