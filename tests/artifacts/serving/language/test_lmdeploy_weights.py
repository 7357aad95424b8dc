import json
from pathlib import Path

import pytest

from mopt.artifacts.serving.language._lmdeploy_weights import prove_decoding
from mopt.model.checkpoint import open_checkpoint
from mopt.model.quantization import Weights
from mopt.passes.language.export_awq import ExportAWQ
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.passes.language.export_modelopt import ExportModelOpt
from mopt.system.environments import find_environment
from tests.passes.language import exports, neutral

pytestmark = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.skipif(find_environment("lmdeploy") is None, reason="mopt tools install lmdeploy has not run"),
]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("quantized")
    return neutral.quantize(neutral.checkpoint(base / "source", blocks=1), base / "neutral", Weights())


@pytest.mark.parametrize("step", [ExportAWQ(), ExportGPTQ()], ids=["awq", "gptq"])
def test_lmdeploys_own_decoders_read_the_same_numbers(step: ExportAWQ | ExportGPTQ, quantized: Path, tmp_path: Path) -> None:
    proof = prove_decoding(exports.export(step, quantized, tmp_path / "out"))
    assert proof.state == "proven"
    assert proof.detail == "7 layers, bit by bit, in LMDeploy 0.18.0"


@pytest.mark.skipif(find_environment("llm_compressor") is None, reason="mopt tools install llm_compressor has not run")
def test_compressed_tensors_with_zero_points_too(tmp_path: Path) -> None:
    from mopt.passes.language.export_compressed_tensors import ExportCompressedTensors

    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    quantized = neutral.quantize(source, tmp_path / "neutral", Weights(group_size=32, symmetric=False))
    proof = prove_decoding(exports.export(ExportCompressedTensors(), quantized, tmp_path / "out"))
    assert proof.state == "proven"


def test_a_packing_read_as_another_one_is_not_proven(quantized: Path, tmp_path: Path) -> None:
    folder = exports.export(ExportAWQ(), quantized, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(folder).quantization["quant_method"] == "gptq"
    proof = prove_decoding(folder)
    assert proof.state == "failed"
    assert "q_proj" in proof.detail
    modelopt = exports.export(ExportModelOpt(), quantized, tmp_path / "modelopt")
    assert "LMDeploy has no decoder for modelopt" in prove_decoding(modelopt).detail
