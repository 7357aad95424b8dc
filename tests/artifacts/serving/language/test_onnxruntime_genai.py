"""Files of the service of ONNX Runtime GenAI."""

import dataclasses
import json

import pytest

from mopt.artifacts.serving.language._base import ServedLanguageModel
from mopt.artifacts.serving.language.onnxruntime_genai import OnnxruntimeGenai
from mopt.errors import NotApplicableError

SERVED = ServedLanguageModel(name="m", architecture="Qwen3ForCausalLM", format="onnxruntime_genai", method="onnxruntime_genai")


def test_it_writes_its_own_service(tmp_path):
    OnnxruntimeGenai().write(tmp_path, served=SERVED, model_folder=tmp_path)
    assert "import onnxruntime_genai" in (tmp_path / "service.py").read_text()
    assert json.loads((tmp_path / "settings.json").read_text())["chat"] is False
    assert "ONNX Runtime GenAI" in (tmp_path / "README.md").read_text()


def test_other_models_are_refused(tmp_path):
    system = OnnxruntimeGenai()
    assert system.refuses(SERVED) == ""
    assert system.refuses(dataclasses.replace(SERVED, architecture="BloomForCausalLM"))
    with pytest.raises(NotApplicableError, match="not gguf"):
        system.write(tmp_path, served=dataclasses.replace(SERVED, format="gguf"), model_folder=tmp_path)
