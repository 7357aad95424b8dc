"""The builder's options, what it is not given, and that its graphs hold what was asked for."""

import dataclasses
import json

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.checkpoint import open_checkpoint
from mopt.model.files import Model
from mopt.model.quantization import Weights
from mopt.passes.language.export_awq import ExportAWQ
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.passes.language.export_onnxruntime_genai import ExportOnnxruntimeGenai
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.onnxruntime_genai import OnnxruntimeGenai
from tests.genai import dequantized, exported, lacking
from tests.language_models import TinyModel, load_tensors
from tests.passes.language.neutral import quantize

MISSING = lacking("onnxruntime_genai")
needs_it = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.mark.parametrize(
    ("fields", "told", "not_told"),
    [
        ({"weights": "fp32"}, {"hf_token=false", "hf_remote=false"}, {"block_size=32"}),
        ({}, {"block_size=32", "is_symmetric=true", "accuracy_level=4", "algo_config=default"}, set()),
        ({"head": "int8", "algorithm": "rtn"}, {"matmul_mixed_precision=last_matmul:int8", "algo_config=rtn"}, set()),
        (
            {"head": "int8", "sensitive_layers": "int8", "block_size": 128, "symmetric": False},
            {"matmul_mixed_precision=last_matmul:int8,mixed_layers:int8", "block_size=128", "is_symmetric=false"},
            set(),
        ),
        ({"head": "fp32"}, {"nodes_to_exclude=/lm_head/MatMul,/model/embed_tokens/Gather"}, {"matmul_mixed_precision="}),
    ],
)
def test_the_builder_is_told(fields, told, not_told):
    options = set(ExportOnnxruntimeGenai(**fields)._options())
    assert told <= options
    assert not not_told & options
    assert "hf_remote=false" in options


@pytest.mark.parametrize(
    ("quantization", "fields", "reason"),
    [
        ({"quant_method": "compressed-tensors"}, {}, "not of compressed-tensors"),
        ({"quant_method": "gptq", "bits": 8}, {"weights": "int4"}, "holds 8 bits"),
        ({"quant_method": "awq", "bits": 4}, {"weights": "fp32"}, "holds 4 bits"),
    ],
)
def test_other_packings_are_refused(tmp_path, quantization, fields, reason):
    checkpoint = open_checkpoint(TinyModel().write(tmp_path / "model"))
    packed = dataclasses.replace(checkpoint, config={**checkpoint.config, "quantization_config": quantization})
    with pytest.raises(NotApplicableError, match=reason):
        ExportOnnxruntimeGenai(**fields)._packed(packed)


def test_a_head_that_the_builder_would_break_is_refused(tmp_path):
    tied = open_checkpoint(TinyModel(tied=True).write(tmp_path / "tied"))
    with pytest.raises(NotApplicableError, match="tied embeddings"):
        ExportOnnxruntimeGenai(head="int8")._packed(tied)
    assert ExportOnnxruntimeGenai(head="int8", algorithm="rtn")._packed(tied) == ""
    assert ExportOnnxruntimeGenai(head="int8")._packed(open_checkpoint(TinyModel().write(tmp_path / "untied"))) == ""


@pytest.mark.slow
@pytest.mark.servers
@needs_it
def test_int4_and_int8_are_what_the_graph_holds(tmp_path):
    source = TinyModel(hidden=256, inner=512, heads=4, groups=2).write(tmp_path / "source")
    sizes = {}
    expected = {
        "fp32": {"Gather float": 1, "MatMul float": 11},
        "int8": {"Gather float": 1, "MatMulNBits 8 bits, blocks of 32": 11},
        "int4": {"Gather float": 1, "MatMulNBits 4 bits, blocks of 32": 10, "MatMulNBits 8 bits, blocks of 32": 1},
    }
    for weights, operators in expected.items():
        step = ExportOnnxruntimeGenai(weights=weights, head="int8" if weights == "int4" else "same", algorithm="rtn")
        model, told = exported(step, source, tmp_path / weights)
        assert told == {"operators": operators, "packed": ""}
        sizes[weights] = model.size
        assert (model.folder / "LICENSE").is_file()
        assert (model.folder / "generation_config.json").is_file()
        assert not (model.folder.parent / "builder").exists()
        settings = json.loads((model.folder / "genai_config.json").read_text())
        assert settings["model"]["eos_token_id"] == 2
    linear = sum(np.prod(shape) for name, shape in TinyModel(hidden=256, inner=512, heads=4, groups=2).shapes().items()
                 if len(shape) == 2 and "embed" not in name)  # fmt: skip
    assert sizes["fp32"] - sizes["int8"] == pytest.approx(linear * (32 - 9) / 8, rel=0.05)
    assert sizes["int8"] > sizes["int4"]


@pytest.mark.slow
@pytest.mark.servers
@needs_it
def test_an_unknown_architecture_is_not_for_it(tmp_path):
    source = TinyModel(architecture="MixtralForCausalLM", experts=2).write(tmp_path / "source")
    with pytest.raises(NotApplicableError, match="does not know MixtralForCausalLM"):
        exported(ExportOnnxruntimeGenai(weights="fp32"), source, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.servers
@needs_it
@pytest.mark.parametrize(("pack", "symmetric"), [(ExportGPTQ(), True), (ExportAWQ(), False)], ids=["gptq", "awq"])
def test_codes_of_a_packed_checkpoint_are_kept(tmp_path, pack, symmetric):
    source = TinyModel().write(tmp_path / "source")
    neutral = quantize(source, tmp_path / "neutral", Weights(bits=4, group_size=32, symmetric=symmetric))
    packed = tmp_path / "packed"
    packed.mkdir()
    pack.apply(Model.at("quantized", neutral), packed)
    step = ExportOnnxruntimeGenai(weights="int4", head="fp32", accuracy_level=1)
    codes, told = exported(step, packed, tmp_path / "codes")
    assert told["operators"]["MatMulNBits 4 bits, blocks of 32"] == 10
    assert told["packed"]
    floats = dequantized(source, tmp_path / "plain", load_tensors(neutral))
    plain, _ = exported(ExportOnnxruntimeGenai(weights="fp32"), floats, tmp_path / "floats")
    window = np.random.default_rng(0).integers(3, 400, 96)
    scores = []
    for model in (codes, plain):
        with LanguageProcess(OnnxruntimeGenai(threads=2, context=256), model) as session:
            scores.append(session.score([window], 1)[0].logprob)
    assert np.abs(scores[0] - scores[1]).max() < 1e-3
