"""Real services of language models on ports of this machine, and what they answer over HTTP."""

from __future__ import annotations

__all__ = ["Client", "check_answers", "serving"]

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mopt.artifacts.serving.language._base import ServedLanguageModel, make_language_serving
from mopt.loadgen.server_process import free_ports, running
from mopt.model.files import Model
from mopt.system.environments import find_environment

_WAIT_S = 120.0


class Client:
    """Asks a server.

    Args:
        port: Of 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer."""
        status, content = self._post(path, body)
        return status, json.loads(content)

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the pieces of an answer."""
        status, content = self._post(path, {**body, "stream": True})
        assert status == 200, content
        *events, done = [line.removeprefix("data: ") for line in content.decode().splitlines() if line]
        assert done == "[DONE]"
        return [json.loads(event) for event in events]

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_WAIT_S)
        with contextlib.closing(connection):
            connection.request("POST", f"/v1{path}", json.dumps(body).encode())
            response = connection.getresponse()
            return response.status, response.read()


@contextlib.contextmanager
def serving(name: str, model: Model, folder: Path, *, context: int) -> Iterator[Client]:
    """Write the files of a serving system beside a model, start it, and yield what asks it."""
    system = make_language_serving(name)
    environment = find_environment(name)
    assert environment is not None
    served = ServedLanguageModel(
        name="tiny", architecture="LlamaForCausalLM", format=name, method=name, context=context, threads=2, chat=True
    )
    (folder / "serving" / name).mkdir(parents=True)
    (folder / "scratch").mkdir()
    system.write(folder / "serving" / name, served=served, model_folder=model.folder)
    ports = free_ports()
    launch = system.launch(
        folder / "serving" / name,
        served=served,
        model_folder=model.folder,
        environment=environment,
        ports=ports,
        scratch=folder / "scratch",
    )
    with running(launch):
        yield Client(ports.http)


def check_answers(client: Client, answer: tuple[int, ...], prompt: list[int], text: str) -> None:
    """Hold a server to what its runtime answers, streamed and whole, and to OpenAI's errors.

    Args:
        client: Asks the server.
        answer: Greedy tokens of the runtime after the prompt.
        prompt: Tokens.
        text: Of the answer.
    """
    greedy = {"prompt": prompt, "temperature": 0, "max_tokens": len(answer)}
    status, whole = client.ask("/completions", greedy)
    assert status == 200
    assert whole["choices"][0]["text"] == text
    assert whole["usage"] == {
        "prompt_tokens": len(prompt), "completion_tokens": len(answer), "total_tokens": len(prompt) + len(answer)
    }  # fmt: skip
    pieces = client.stream("/completions", {**greedy, "return_token_ids": True})
    assert tuple(token for piece in pieces for token in piece["choices"][0]["token_ids"]) == answer
    assert len(pieces) > 2
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == text
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"
    middle = text[len(text) // 2 :][:3]
    stopped = client.ask("/completions", {**greedy, "stop": middle})[1]["choices"][0]
    assert stopped["text"] == text[: text.index(middle)]
    assert stopped["finish_reason"] == "stop"
    chat = {"messages": [{"role": "user", "content": "the world"}], "max_tokens": 8, "temperature": 1.5, "seed": 1}
    answers = [
        client.ask("/chat/completions", {**chat, "seed": seed})[1]["choices"][0]["message"]["content"] for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]
    deltas = [piece["choices"][0]["delta"] for piece in client.stream("/chat/completions", chat)]
    assert "".join(delta.get("content", "") for delta in deltas) == answers[0]
    assert client.ask("/completions", {"prompt": prompt, "max_tokens": 10_000})[1]["error"]["code"] == "context_length_exceeded"
    assert client.ask("/completions", {"prompt": [10_000]})[0] == 400
