import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.checkpoint import open_checkpoint
from mopt.model.files import Model
from mopt.model.gguf import open_gguf
from mopt.model.tokenizer_files import chat_template_difference, vocabulary_difference
from mopt.passes.language.export_gguf import ExportGguf, _dtype_of, _stage
from tests.gguf_models import MODEL, apply, exported
from tests.language_models import TinyModel, load_tensors
from tests.servers import missing

REAL = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.skipif(bool(missing("llm_compressor")), reason=missing("llm_compressor")),
]


def _marked(test: object) -> object:
    for mark in REAL:
        test = mark(test)
    return test


def test_the_converter_is_given_no_code(tmp_path: Path) -> None:
    source = TinyModel(layers=1, shards=2).write(tmp_path / "source")
    (source / "modeling_evil.py").write_text("raise SystemExit\n")
    for name in ("config.json", "tokenizer_config.json"):
        fields = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps({**fields, "auto_map": {"AutoTokenizer": ["modeling_evil.Evil", None]}}))
    staged = tmp_path / "staged"
    _stage(open_checkpoint(source), staged)
    names = {path.name for path in staged.iterdir()}
    assert not any(name.endswith(".py") for name in names)
    assert "auto_map" not in (staged / "config.json").read_text() + (staged / "tokenizer_config.json").read_text()
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "LICENSE", "README.md"} <= names
    assert "auto_map" in (source / "config.json").read_text(), "the source stays as it is"


@pytest.mark.parametrize(("dtype", "written"), [("BF16", "bf16"), ("F16", "f16"), ("F32", "f32")])
def test_the_type_of_the_source(dtype: str, written: str, tmp_path: Path) -> None:
    assert _dtype_of(open_checkpoint(TinyModel(layers=1, dtype=dtype).write(tmp_path / "source"))) == written


@_marked
def test_everything_travels_along() -> None:
    source, folder = exported()
    gguf = open_gguf(folder / "model.gguf")
    assert chat_template_difference(gguf, source) == ""
    assert vocabulary_difference(gguf, source) == ""
    assert gguf.metadata["general.license"] == "cc0-1.0"
    assert gguf.metadata["tokenizer.ggml.add_bos_token"] is True
    assert (gguf.architecture, gguf.context, gguf.file_type) == ("llama", 256, "F16")
    assert gguf.parameters == open_checkpoint(source).parameters
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "README.md", "generation_config.json", "model.gguf"]


@_marked
def test_weights_are_the_source_s_own(tmp_path: Path) -> None:
    source = MODEL.write(tmp_path / "source")
    result = apply(ExportGguf(), Model.at("huggingface", source), tmp_path / "gguf")
    assert result["detail"]["file_type"] == "BF16"
    gguf, weights = open_gguf(tmp_path / "gguf" / "model.gguf"), load_tensors(source)
    tensor = gguf.tensors["blk.1.ffn_down.weight"]
    data = np.fromfile(gguf.path, np.uint16, tensor.parameters, offset=tensor.offset)
    assert np.array_equal(data.reshape(tensor.shape), weights["model.layers.1.mlp.down_proj.weight"].view(np.uint16))


@_marked
def test_what_the_converter_does_not_know_is_not_applicable(tmp_path: Path) -> None:
    source = TinyModel(layers=1).write(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "architectures": ["UnheardOfForCausalLM"]}))
    with pytest.raises(NotApplicableError, match="UnheardOfForCausalLM"):
        apply(ExportGguf(), Model.at("huggingface", source), tmp_path / "gguf")


@_marked
def test_a_tokenizer_that_llama_cpp_does_not_know_is_not_applicable(tmp_path: Path) -> None:
    source = TinyModel(layers=1, architecture="Qwen2ForCausalLM", biases=True).write(tmp_path / "source")
    (source / "tokenizer.model").unlink()
    with pytest.raises(NotApplicableError, match="pre-tokenizer"):
        apply(ExportGguf(), Model.at("huggingface", source), tmp_path / "gguf")
    shutil.rmtree(tmp_path / "gguf")
