"""What all exports do: words, shards, scales, companions, the model card, refusals."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.checkpoint import open_checkpoint
from mopt.model.files import Model
from mopt.model.packed import open_quantized
from mopt.model.quantization import Weights
from mopt.model.weight_checks import compare
from mopt.passes.language._export import exact_scale_type, pack_words, schemes, unquantized_layers
from mopt.passes.language.export_awq import ExportAWQ
from mopt.passes.language.export_compressed_tensors import ExportCompressedTensors
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.vllm import Vllm
from mopt.system.environments import find_environment
from tests.language_models import TinyModel
from tests.passes.language import exports, neutral


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.data())
def test_words_are_the_codes_in_base_two_to_the_bits(bits: int, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 20)))
    codes = data.draw(numpy_strategies.arrays(np.uint8, shape, elements=st.integers(0, (1 << bits) - 1)))
    words = pack_words(codes, bits)
    assert words.shape == (shape[0], -(-shape[1] * bits // 32))
    for row, packed in zip(codes.tolist(), words.view(np.uint32).tolist(), strict=True):
        number = sum(word << 32 * place for place, word in enumerate(packed))
        assert number == sum(code << bits * place for place, code in enumerate(row))


def test_scales_are_held_exactly_or_not_at_all() -> None:
    exact = np.array([0.5, 3.0, 2.0**-14], np.float32)
    assert exact_scale_type(exact, "F16", "a")[0] == "F16"
    small = np.array([2.0**-30 * 1.5], np.float32)  # below what float16 holds
    assert exact_scale_type(small, "F16", "a")[0] == "BF16"
    fine = np.array([1 + 2.0**-20], np.float32)
    assert exact_scale_type(fine, "F32", "a")[0] == "F32"
    with pytest.raises(CandidateRejectedError, match="a: its scales are not numbers of bfloat16"):
        exact_scale_type(fine, "BF16", "a")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("quantized")
    return neutral.quantize(neutral.checkpoint(base / "source"), base / "neutral", Weights(group_size=32))


def test_a_checkpoint_in_shards_is_whole_and_has_what_travels_with_it(quantized: Path, tmp_path: Path) -> None:
    ExportGPTQ(shard_bytes=100_000).apply(Model("quantized", quantized, ""), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors.index.json" in names
    assert len([name for name in names if name.startswith("model-")]) > 1
    assert max((tmp_path / name).stat().st_size for name in names if name.startswith("model-")) < 110_000
    assert {"LICENSE", "README.md", "config.json", "quantize_config.json"} < names
    assert "quantization.json" not in names
    assert compare(quantized, tmp_path) == []
    config = json.loads((tmp_path / "config.json").read_text())
    assert "auto_map" not in config
    assert config["_name_or_path"] == "owner/model-1b"
    assert config["quantization_config"]["quant_method"] == "gptq"


def test_the_card_says_what_the_hub_asks_of_a_quantized_model(quantized: Path, tmp_path: Path) -> None:
    ExportGPTQ().apply(Model("quantized", quantized, ""), tmp_path)
    card = (tmp_path / "README.md").read_text()
    front = card.split("---\n")[1]
    assert front == "license: apache-2.0\ntags:\n- text\nbase_model: owner/model-1b\nbase_model_relation: quantized\n"
    assert "# A model\n" in card
    assert "- Weights: INT4, groups of 32 (14 linear layers), found by rtn\n- Packing: GPTQ\n" in card
    assert "- Linear layers left as they were: lm_head" in card


def test_a_model_of_no_name_on_the_hub_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    config = json.loads((source / "config.json").read_text()) | {"_name_or_path": "/home/me/models/mine"}
    (source / "config.json").write_text(json.dumps(config))
    (source / "README.md").unlink()
    folder = neutral.quantize(source, tmp_path / "neutral", Weights())
    for name, step in {"unnamed": ExportGPTQ(), "named": ExportGPTQ(base_model="me/mine")}.items():
        out = tmp_path / name
        out.mkdir()
        step.apply(Model("quantized", folder, ""), out)
        assert "_name_or_path" not in json.loads((out / "config.json").read_text())
    assert (tmp_path / "unnamed" / "README.md").read_text().startswith("## Quantization\n")
    assert (tmp_path / "named" / "README.md").read_text().startswith("---\nbase_model: me/mine\n")


def test_layers_that_servers_run_as_one_need_one_scheme(tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    mixed = neutral.quantize(source, tmp_path / "mixed", {"": Weights(), "up_proj": Weights(bits=8)})
    with pytest.raises(NotApplicableError, match=r"gate_proj and .*up_proj as one layer, and their schemes differ"):
        ExportGPTQ().check(open_quantized(mixed))
    fine = open_quantized(neutral.quantize(source, tmp_path / "fine", {"": Weights(), "down_proj": Weights(bits=8)}))
    ExportGPTQ().check(fine)
    assert [(scheme.weights.bits, len(names)) for scheme, names in schemes(fine)] == [(4, 6), (8, 1)]
    assert unquantized_layers(fine) == ["lm_head"]


def test_the_source_is_left_alone(quantized: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in quantized.iterdir()}
    ExportGPTQ().apply(Model("quantized", quantized, ""), tmp_path)
    assert {path.name: path.read_bytes() for path in quantized.iterdir()} == before
    assert open_checkpoint(tmp_path).architecture == "LlamaForCausalLM"


def _missing(*names: str) -> bool:
    return any(find_environment(name) is None for name in names)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.timeout(2400)
@pytest.mark.skipif(_missing("vllm", "llm_compressor"), reason="mopt tools install vllm llm_compressor has not run")
def test_exports_of_one_quantization_score_the_same_in_vllm(tmp_path: Path) -> None:
    source = TinyModel().write(tmp_path / "source")
    folder = neutral.quantize(source, tmp_path / "neutral", Weights(group_size=32))
    window = np.arange(3, 103, dtype=np.int64)
    scores = {}
    for step in (ExportCompressedTensors(), ExportGPTQ(), ExportAWQ()):
        out = exports.export(step, folder, tmp_path / step.title)
        with LanguageProcess(Vllm(threads=2, context=128), Model.at("huggingface", out)) as process:
            (scored,) = process.score([window], 1)
        scores[step.title] = scored.logprob
    with LanguageProcess(Vllm(threads=2, context=128), Model.at("huggingface", source)) as process:
        (scored,) = process.score([window], 1)
    np.testing.assert_array_equal(scores["GPTQ"], scores["compressed-tensors"])
    np.testing.assert_array_equal(scores["AWQ"], scores["compressed-tensors"])
    moved = np.abs(scores["GPTQ"] - scored.logprob).mean() / np.abs(scored.logprob).mean()
    assert 1e-3 < moved < 0.3, "quantized, and still this model"


_LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
with torch.no_grad():
    logits = model(torch.arange(3, 35)[None]).logits[0].double().log_softmax(-1)
print(" ".join(str(float(row[place + 4])) for place, row in enumerate(logits[:-1])))
"""


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.timeout(1200)
@pytest.mark.skipif(_missing("llm_compressor"), reason="mopt tools install llm_compressor has not run")
def test_transformers_loads_what_compressed_tensors_is_made_of(tmp_path: Path) -> None:
    source = TinyModel().write(tmp_path / "source")
    folder = neutral.quantize(source, tmp_path / "neutral", Weights(group_size=32, symmetric=False))
    out = exports.export(ExportCompressedTensors(), folder, tmp_path / "out")
    decoded = exports.decoded(out, tmp_path / "decoded")
    environment = find_environment("llm_compressor")
    assert environment is not None
    scores = []
    for model in (out, decoded, source):
        command = [str(environment.python), "-c", _LOAD, str(model)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        scores.append(np.array(text.split(), float))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)
    assert np.abs(scores[2] - scores[1]).max() > 1e-2, "or it would be the source that was loaded"
