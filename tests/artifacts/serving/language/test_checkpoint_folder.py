import json
import shlex

import pytest

from mopt.artifacts.serving.language._base import make_language_serving
from mopt.artifacts.serving.language._checkpoint_folder import check_options, refuse, request_text, write_checkpoint_readme
from mopt.errors import NotApplicableError
from tests.served_language import HOSTILE, served


def body(command):
    words = shlex.split(command.replace("\\\n", ""))
    return words[2], json.loads(words[words.index("-d") + 1])


def test_a_chat_is_asked_for_where_there_is_a_template():
    url, content = body(request_text(served(), port=8000))
    assert url == "localhost:8000/v1/chat/completions"
    assert content["stream"] is True
    assert content["messages"][0]["role"] == "user"
    url, content = body(request_text(served(chat=False), port=1))
    assert url == "localhost:1/v1/completions"
    assert "prompt" in content


def test_a_hostile_name_stays_text(tmp_path):
    model = served(name=HOSTILE, detail=HOSTILE)
    words = shlex.split(request_text(model, port=1).replace("\\\n", ""))
    assert json.loads(words[-1])["model"] == "x_rm_-rf_script_id_id"
    write_checkpoint_readme(tmp_path, title="T", served=model, start="start", request="ask", notes=[HOSTILE])
    text = (tmp_path / "README.md").read_text()
    assert text.count("```") == 4
    assert "<script>" not in text
    assert "`id`" not in text


def test_what_a_system_does_not_load_is_refused():
    system = make_language_serving("sglang")
    with pytest.raises(NotApplicableError, match="not gguf"):
        refuse(system, served(format="gguf"))
    with pytest.raises(NotApplicableError, match="does not load gguf"):
        refuse(system, served(method="gguf"))
    with pytest.raises(NotApplicableError, match="does not run X"):
        refuse(system, served(architecture="X"))
    refuse(system, served())


def test_an_option_that_the_server_does_not_have_fails():
    assert check_options("sglang", ["context-length"]).state == "proven"
    proof = check_options("sglang", ["context-length", "context-lenght"])
    assert proof.state == "failed"
    assert "no context-lenght" in proof.detail
