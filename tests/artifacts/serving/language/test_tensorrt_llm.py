import json

import pytest

from mopt.artifacts.serving.language.tensorrt_llm import TensorrtLlm
from mopt.errors import NotApplicableError
from tests.served_language import FP8_STATIC, INT4, NVFP4, served, written

yaml = pytest.importorskip("yaml")
MODEL = served(method="modelopt", scheme=FP8_STATIC, kv_cache="fp8")


def settings(**changes):
    return {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"} | changes}


def put(root, content, inline="FP8"):
    model = root / "model"
    model.mkdir(exist_ok=True)
    (model / "hf_quant_config.json").write_text(json.dumps(content))
    (model / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "modelopt", "quant_algo": inline}}))
    return model


def test_options_and_command_are_written(tmp_path):
    put(tmp_path, settings())
    folder = written(TensorrtLlm(), tmp_path, MODEL)
    options = yaml.safe_load((folder / "extra_llm_api_options.yaml").read_text())
    assert options["kv_cache_config"]["dtype"] == "fp8"
    readme = (folder / "README.md").read_text()
    assert "trtllm-serve ../../model --served_model_name tiny --backend pytorch --max_seq_len 128" in readme
    assert "not run in TensorRT-LLM" in readme


def test_a_checkpoint_without_its_settings_is_refused(tmp_path):
    with pytest.raises(NotApplicableError, match=r"hf_quant_config\.json"):
        written(TensorrtLlm(), tmp_path, MODEL)


@pytest.mark.parametrize(
    ("content", "inline", "state", "said"),
    [
        (settings(), "FP8", "proven", "names an algorithm"),
        (settings(quant_algo="FP7"), "FP7", "failed", "no algorithm is called FP7"),
        (settings(kv_cache_quant_algo="INT3"), "FP8", "failed", "no cache is called INT3"),
        (settings(), "NVFP4", "failed", "config.json says NVFP4"),
        (settings(quant_algo="MIXED_PRECISION"), "MIXED_PRECISION", "failed", "names no layers"),
        (
            settings(quant_algo="MIXED_PRECISION", quantized_layers={"a": {"quant_algo": "X"}}),
            "MIXED_PRECISION",
            "failed",
            "a: no",
        ),
        ({"quantization": []}, "FP8", "failed", "cannot be read"),
    ],
    ids=["right", "algorithm", "cache", "inline", "no-layers", "layer", "nonsense"],
)
def test_settings_are_read_as_it_reads_them(tmp_path, content, inline, state, said):
    model = put(tmp_path, content, inline)
    (proof,) = TensorrtLlm().check(tmp_path, served=MODEL, model_folder=model, environment=None)
    assert proof.state == state
    assert said in proof.detail


def test_an_unquantized_model_has_no_settings_to_read(tmp_path):
    system = TensorrtLlm()
    assert system.check(tmp_path, served=served(method="none"), model_folder=tmp_path, environment=None) == ()


def test_what_vllm_cannot_judge_is_refused():
    system = TensorrtLlm()
    assert system.refuses(MODEL) == ""
    assert system.refuses(served(method="modelopt", scheme=INT4)) == ""
    assert "no kernel for nvfp4/nvfp4" in system.refuses(served(method="modelopt", scheme=NVFP4))
