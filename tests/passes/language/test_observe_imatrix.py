from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.gguf import open_gguf
from mopt.model.tokens import write_windows
from mopt.passes.language._importance import FILE_NAME, read_importance
from mopt.passes.language.export_gguf import ExportGguf
from mopt.passes.language.observe_imatrix import ObserveImatrix
from mopt.passes.language.quantize_gguf import QuantizeGguf
from tests.gguf_models import MODEL, apply, exported
from tests.language_models import TinyModel, load_tensors
from tests.servers import missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.skipif(bool(missing("llama_cpp")), reason=missing("llama_cpp")),
    pytest.mark.skipif(bool(missing("llm_compressor")), reason=missing("llm_compressor")),
]


def _windows(folder: Path, highest: int = 300) -> ObserveImatrix:
    folder.mkdir()
    ids = np.random.default_rng(0).integers(3, highest, (3, 40))
    return ObserveImatrix(windows=write_windows(folder, ids.astype(np.int32)))


def test_the_first_layer_sees_normalized_embeddings(tmp_path: Path) -> None:
    source, folder = exported()
    step = _windows(tmp_path / "windows")
    result = apply(step, Model.at("gguf", folder), tmp_path / "model")
    means = read_importance(tmp_path / "model" / FILE_NAME)
    assert result["detail"] == {"layers": 7 * MODEL.layers, "tokens": 120}
    weights = {
        name: values.astype(np.float64) for name, values in load_tensors(source).items() if "embed" in name or ".0." in name
    }
    hidden = weights["model.embed_tokens.weight"][step.windows.load().ravel()]
    hidden = hidden / np.sqrt((hidden**2).mean(1, keepdims=True) + 1e-5) * weights["model.layers.0.input_layernorm.weight"]
    expected = (hidden**2).mean(0)
    for name in ("q", "k", "v"):
        assert means[f"blk.0.attn_{name}.weight"][0] == pytest.approx(expected, rel=1e-2)


def test_quantizing_reads_it(tmp_path: Path) -> None:
    _, folder = exported()
    apply(_windows(tmp_path / "windows"), Model.at("gguf", folder), tmp_path / "observed")
    for name, source in (("plain", folder), ("weighed", tmp_path / "observed")):
        apply(QuantizeGguf(type="q4_k_m"), Model.at("gguf", source), tmp_path / name)
    plain, weighed = (open_gguf(tmp_path / name / "model.gguf") for name in ("plain", "weighed"))
    assert {name: tensor.type for name, tensor in plain.tensors.items()} == {
        name: tensor.type for name, tensor in weighed.tensors.items()
    }
    assert weighed.metadata["quantize.imatrix.entries_count"] == 14
    tensor, same = plain.tensors["blk.0.ffn_up.weight"], weighed.tensors["blk.0.ffn_up.weight"]
    data = [np.fromfile(gguf.path, np.uint8, one.size, offset=one.offset) for gguf, one in ((plain, tensor), (weighed, same))]
    assert not np.array_equal(*data)


def test_tokens_of_another_model(tmp_path: Path) -> None:
    _, folder = exported()
    with pytest.raises(NotApplicableError, match="another tokenizer"):
        apply(_windows(tmp_path / "windows", 100_000), Model.at("gguf", folder), tmp_path / "model")


def test_each_expert_is_observed(tmp_path: Path) -> None:
    model = TinyModel(architecture="MixtralForCausalLM", experts=4, layers=1, hidden=256)
    source = Model.at("huggingface", model.write(tmp_path / "source"))
    apply(ExportGguf(), source, tmp_path / "gguf")
    apply(_windows(tmp_path / "windows"), Model.at("gguf", tmp_path / "gguf"), tmp_path / "model")
    matrix = open_gguf(tmp_path / "model" / FILE_NAME)
    for name in ("gate", "up", "down"):
        counts = matrix.tensors[f"blk.0.ffn_{name}_exps.weight.counts"]
        assert counts.shape == (4, 1)
        assert np.fromfile(matrix.path, np.float32, 4, offset=counts.offset).sum() == 2 * 120, "two experts answer each token"
    assert read_importance(matrix.path)["blk.0.ffn_down_exps.weight"].shape == (4, 256)
