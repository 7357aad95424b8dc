"""Files of the service of OpenVINO GenAI: it is told what was judged."""

import dataclasses
import json

import pytest

from mopt.artifacts.serving.language._base import ServedLanguageModel
from mopt.artifacts.serving.language.openvino_genai import OpenvinoGenai
from mopt.errors import NotApplicableError
from mopt.model.openvino_properties import OpenvinoProperties

SERVED = ServedLanguageModel(
    name="m", architecture="BloomForCausalLM", format="openvino_genai", method="openvino_genai", threads=4
)


def test_the_properties_are_those_of_the_model(tmp_path):
    model, folder = tmp_path / "model", tmp_path / "serving"
    model.mkdir()
    folder.mkdir()
    properties = OpenvinoProperties(kv_cache="u8", precision="bf16")
    properties.write(model)
    OpenvinoGenai().write(folder, served=SERVED, model_folder=model)
    told = json.loads((folder / "settings.json").read_text())["properties"]
    assert told == {**properties.plugin(4), "ATTENTION_BACKEND": "SDPA"}
    assert "import openvino_genai" in (folder / "service.py").read_text()


def test_other_models_are_refused(tmp_path):
    system = OpenvinoGenai()
    assert system.refuses(SERVED) == ""
    assert system.refuses(dataclasses.replace(SERVED, architecture="InternLM2ForCausalLM"))
    with pytest.raises(NotApplicableError, match="not gguf"):
        system.write(tmp_path, served=dataclasses.replace(SERVED, format="gguf"), model_folder=tmp_path)
