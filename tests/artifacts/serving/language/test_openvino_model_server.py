"""The graph of OpenVINO Model Server: what its schema has, and the properties that were judged."""

import dataclasses
import json
import re

import pytest

from mopt.artifacts.serving._base import Ports
from mopt.artifacts.serving.language._base import ServedLanguageModel
from mopt.artifacts.serving.language.openvino_model_server import OpenvinoModelServer
from mopt.errors import NotApplicableError
from mopt.model.openvino_properties import OpenvinoProperties

SERVED = ServedLanguageModel(
    name="m", architecture="LlamaForCausalLM", format="openvino_genai", method="openvino_genai", threads=4, context=640
)
_FIELDS = {"models_path", "device", "plugin_config", "pipeline_type", "max_num_batched_tokens", "max_tokens_limit"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "serving").mkdir()
    OpenvinoProperties(kv_cache="u8").write(tmp_path / "model")
    OpenvinoModelServer().write(tmp_path / "serving", served=SERVED, model_folder=tmp_path / "model")
    return tmp_path / "serving"


def test_the_graph_tells_the_engine_what_was_judged(folder):
    text = (folder / "graph.pbtxt").read_text()
    assert text.count("{") == text.count("}") + text.count('\\"{') - text.count('}\\"')
    options = text.partition("LLMCalculatorOptions] {")[2].partition("\n    }")[0]
    told = dict(re.findall(r"(\w+): (.+)", options))
    assert set(told) == _FIELDS
    assert json.loads(told["models_path"]) == "../../model"
    assert json.loads(json.loads(told["plugin_config"])) == OpenvinoProperties(kv_cache="u8").plugin(4)
    assert told["max_tokens_limit"] == "640"
    assert 'input_side_packet: "LLM_NODE_RESOURCES:llm"' in text


def test_the_list_of_models_names_it(folder):
    (entry,) = json.loads((folder / "config.json").read_text())["mediapipe_config_list"]
    assert entry == {"name": "m", "base_path": "."}


def test_the_readme_says_that_it_was_not_run(folder):
    text = (folder / "README.md").read_text()
    assert "Not run in this server" in text
    assert "http://localhost:8000/v3/completions" in text
    assert "--config_path /artifact/serving/openvino_model_server/config.json" in text


def test_other_models_are_refused(tmp_path):
    system = OpenvinoModelServer()
    assert system.stands_in
    assert system.refuses(SERVED) == ""
    assert system.refuses(dataclasses.replace(SERVED, architecture="NobodyForCausalLM"))
    with pytest.raises(NotApplicableError, match="not gguf"):
        system.write(tmp_path, served=dataclasses.replace(SERVED, format="gguf"), model_folder=tmp_path)


def test_without_the_program_it_does_not_start(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotApplicableError, match="in no registry"):
        OpenvinoModelServer().launch(
            folder, served=SERVED, model_folder=folder, environment=None, ports=Ports(1, 2, 3), scratch=folder
        )
