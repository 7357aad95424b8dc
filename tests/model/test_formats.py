from pathlib import Path

import pytest

from mopt.model.files import Model
from mopt.model.formats import FORMATS, model_format
from mopt.system import plugins


@pytest.mark.parametrize(
    ("name", "main_file", "readable"),
    [
        ("onnx", "model.onnx", "model.onnx"),
        ("openvino", "model.xml", "model.xml"),
        ("tensorrt", "model.plan", "onnx/model.onnx"),
        ("another", "model.another", "model.another"),
    ],
)
def test_where_the_files_of_a_model_are(name: str, main_file: str, readable: str) -> None:
    assert model_format(name).main_file == main_file
    assert model_format(name).readable_file == readable
    assert Model(name, Path("folder"), "").file == Path("folder", main_file)


def test_every_format_that_a_pass_makes_is_one_that_a_runtime_loads() -> None:
    loaded = {name for runtime in plugins.names("runtimes") for name in plugins.load("runtimes", runtime).formats}
    made = {plugins.load("passes", name).makes for name in plugins.names("passes")}
    read = {plugins.load("passes", name).takes for name in plugins.names("passes")}
    assert made == loaded
    assert made >= read


def test_every_format_that_a_pass_of_language_models_makes_is_loaded_or_read_by_another_pass() -> None:
    loaded = {form for name in plugins.names("language_runtimes") for form in plugins.load("language_runtimes", name).formats}
    steps = [plugins.load("language_passes", name) for name in plugins.names("language_passes")]
    assert {step.makes for step in steps} <= loaded | {step.takes for step in steps}
    assert {step.takes for step in steps} - {step.makes for step in steps} <= {"huggingface", "gguf"}


def test_every_format_in_the_table_is_one_that_some_pass_makes() -> None:
    made = {plugins.load(kind, name).makes for kind in ("passes", "language_passes") for name in plugins.names(kind)}
    assert made >= set(FORMATS)


def test_what_an_engine_was_made_from_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"onnx")
    source = Model.source_of("tensorrt", tmp_path)
    assert (source.format, source.file) == ("onnx", tmp_path / "onnx" / "model.onnx")
