import itertools
import json
import shlex
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from mopt.artifacts.serving.language._base import make_language_serving
from mopt.artifacts.serving.language.llama_cpp import LlamaCpp
from mopt.errors import NotApplicableError
from mopt.loadgen.server_process import free_ports, running
from mopt.system.environments import find_environment
from tests.artifacts.serving.language.test_gguf_serving import served
from tests.gguf_files import LLAMA, write_gguf
from tests.gguf_models import exported
from tests.servers import missing


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model" / "model.gguf", LLAMA)
    folder = tmp_path / "serving" / "llama_cpp"
    folder.mkdir(parents=True)
    LlamaCpp().write(folder, served=served(threads=2, kv_cache="int8"), model_folder=tmp_path / "model")
    return folder


def test_files(written: Path) -> None:
    settings = json.loads((written / "settings.json").read_text())
    assert settings == {
        "name": "tiny",
        "model": "../../model/model.gguf",
        "context": 256,
        "threads": 2,
        "parallel": 4,
        "cache_type": "q8_0",
    }
    compile((written / "serve.py").read_text(), "serve.py", "exec")


def test_the_plain_command_says_the_same(written: Path) -> None:
    lines = (written / "README.md").read_text().splitlines()
    command = shlex.split(next(line for line in lines if line.startswith("llama-server")))
    options = dict(itertools.pairwise(command[1:]))
    assert options["-m"] == "../../model/model.gguf"
    assert (options["-c"], options["-np"], options["-t"]) == ("1024", "4", "2"), "each request has the whole context"
    assert (options["-ctk"], options["-ctv"]) == ("q8_0", "q8_0")
    assert "--jinja" in command
    assert any("mopt tools install llama_cpp" in line for line in lines)
    assert any("/v1/chat/completions" in line for line in lines)


def test_what_it_does_not_serve(tmp_path: Path) -> None:
    for changes in ({"format": "huggingface"}, {"architecture": "OPTForCausalLM"}, {"kv_cache": "fp8"}):
        with pytest.raises(NotApplicableError):
            LlamaCpp().write(tmp_path, served=served(**changes), model_folder=tmp_path)


def test_it_is_found_by_its_name() -> None:
    assert isinstance(make_language_serving("llama_cpp"), LlamaCpp)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.skipif(bool(missing("llama_cpp")), reason=missing("llama_cpp"))
@pytest.mark.skipif(bool(missing("llm_compressor")), reason=missing("llm_compressor"))
def test_the_real_server_streams(tmp_path: Path) -> None:
    _, language_gguf = exported()
    environment = find_environment("llama_cpp")
    assert environment is not None
    folder = tmp_path / "serving" / "llama_cpp"
    folder.mkdir(parents=True)
    system, model = LlamaCpp(), served(threads=2)
    system.write(folder, served=model, model_folder=language_gguf)
    launch = system.launch(
        folder, served=model, model_folder=language_gguf, environment=environment, ports=free_ports(), scratch=tmp_path
    )
    body = {"model": "tiny", "messages": [{"role": "user", "content": "the of and"}], "max_tokens": 5, "temperature": 0}
    with running(launch):
        request = Request(
            f"{launch.url}/chat/completions",
            json.dumps({**body, "stream": True}).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=120) as answer:
            events = [line.decode().removeprefix("data: ").strip() for line in answer if line.startswith(b"data: ")]
        with urlopen(Request(f"{launch.url}/models"), timeout=60) as answer:
            names = [entry["id"] for entry in json.load(answer)["data"]]
    assert events[-1] == "[DONE]"
    texts = [choice["delta"].get("content") for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert len([text for text in texts if text]) >= 2, "it comes in pieces"
    assert names == ["tiny"]
