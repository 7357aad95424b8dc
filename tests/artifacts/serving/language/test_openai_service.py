"""The folder of a service: settings, a README whose commands are whole, and how it is started."""

import json
import shlex
from pathlib import Path

import pytest

from mopt.artifacts.serving._base import Ports
from mopt.artifacts.serving.language._base import ServedLanguageModel
from mopt.artifacts.serving.language._openai_service import OpenAIService, refused_architecture, request_lines
from mopt.system.environments import Environment

SERVED = ServedLanguageModel(
    name="model", architecture="LlamaForCausalLM", format="onnxruntime_genai", method="onnxruntime_genai", context=512,
    threads=3, chat=True,
)  # fmt: skip


class _Service(OpenAIService):
    title = "The Library"
    distribution = "onnxruntime-genai"
    environment = "onnxruntime_genai"
    runtimes = methods = ("onnxruntime_genai",)

    def settings(self, served, model_folder):
        return {"more": 1}


def _written(folder, served=SERVED):
    _Service().write(folder, served=served, model_folder=folder)
    return folder


def test_the_folder_has_what_the_service_reads(tmp_path):
    folder = _written(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"service.py", "openai_protocol.py", "settings.json", "README.md"}
    settings = json.loads((folder / "settings.json").read_text())
    assert settings == {"name": "model", "model": "../../model", "context": 512, "threads": 3, "chat": True, "more": 1}
    for name in ("service.py", "openai_protocol.py"):
        compile((folder / name).read_text(), name, "exec")


def test_the_readme_starts_and_asks(tmp_path):
    text = (_written(tmp_path) / "README.md").read_text()
    assert "mopt tools install onnxruntime_genai" in text
    assert "curl -N http://localhost:8000/v1/chat/completions" in text
    assert "512 tokens" in text
    assert "3 threads" in text


@pytest.mark.parametrize(
    ("chat", "path", "key"), [(True, "/v1/chat/completions", "messages"), (False, "/v1/completions", "prompt")]
)
def test_the_request_streams(chat, path, key):
    served = ServedLanguageModel(name="it's", architecture="A", format="f", method="none", chat=chat)
    words = shlex.split(" ".join(request_lines(served, 8000)).replace("\\ ", " "))
    assert words[:2] == ["curl", "-N"]
    assert words[2].endswith(path)
    body = json.loads(words[words.index("-d") + 1])
    assert body["stream"] is True
    assert body["model"] == "it's"
    assert key in body


def test_it_is_started_on_the_model_that_is_given(tmp_path):
    (tmp_path / "installed.txt").write_text("onnxruntime_genai==1.2\n")
    launch = _Service().launch(
        Path("/serving"),
        served=SERVED,
        model_folder=Path("/model"),
        environment=Environment("x", tmp_path),
        ports=Ports(8123, 0, 0),
        scratch=Path("/scratch"),
    )
    assert launch.command == [
        tmp_path / "bin" / "python", Path("/serving/service.py"), "--port", "8123", "--model", Path("/model")
    ]  # fmt: skip
    assert (launch.url, launch.protocol, launch.model) == ("http://127.0.0.1:8123/v1", "openai", "model")
    assert launch.version == "The Library 1.2"
    assert launch.environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("library", ["onnxruntime_genai", "openvino_genai"])
def test_architectures_are_those_of_the_library(library):
    assert refused_architecture(library, SERVED) == ""
    unknown = ServedLanguageModel(name="m", architecture="NobodyForCausalLM", format=library, method=library)
    assert "no export of NobodyForCausalLM" in refused_architecture(library, unknown)
    mixture = ServedLanguageModel(name="m", architecture="MixtralForCausalLM", format=library, method=library)
    assert bool(refused_architecture(library, mixture)) == (library == "onnxruntime_genai")
