"""OpenAI's protocol, as vLLM and llama-server speak it: chats and completions, streamed, and prompts given as tokens."""

from __future__ import annotations

__all__ = [
    "OpenAIEndpoint",
    "StreamedAnswer",
    "connect_openai",
    "greedy_tokens",
    "prompt_logprobs",
    "stream_chat",
    "stream_completion",
]

import contextlib
import dataclasses
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mopt.errors import NotApplicableError, UserError
from mopt.loadgen.protocols._endpoint import Server, missing, only, parse
from mopt.loadgen.protocols._http import Answer, dictionary, fetch, json_request

_TIMEOUT_S = 120.0
"""For a whole answer, the last token included."""
_MOST_BYTES = 64 << 20
"""Of an answer that is read at all."""
_DATA = b"data:"
_DONE = b"[DONE]"


@dataclasses.dataclass(frozen=True)
class OpenAIEndpoint:
    """A language model on a server.

    Attributes:
        server: Where it listens.
        path: In front of ``/chat/completions`` and the others, such as ``/v1``.
        model: What requests call the model.
    """

    server: Server
    path: str
    model: str

    def __str__(self) -> str:
        return f"{self.model} at {self.server}"


@dataclasses.dataclass(frozen=True)
class StreamedAnswer:
    """What a server streamed.

    Attributes:
        text: All of it.
        ids: Its tokens, where the server tells them: vLLM does for completions and chats, llama-server for completions.
        events: Pieces that it came in.
        first_seconds: From the request to the first piece with text or a token in it.
        seconds: From the request to the end.
        finish: Why it ended: ``stop``, ``length``.
    """

    text: str
    ids: tuple[int, ...]
    events: int
    first_seconds: float
    seconds: float
    finish: str


def connect_openai(url: str, *, model: str | None = None, headers: tuple[tuple[str, str], ...] = ()) -> OpenAIEndpoint:
    """Find a language model on a server that is up.

    Args:
        url: ``http(s)://host:port``, with ``/v1`` or not.
        model: Needed where the server has several.
        headers: Sent with every request; a token, say.

    Raises:
        UserError: When no server answers, it does not speak the protocol, or the model is not there.
    """
    _, server, path = parse(url)
    server = dataclasses.replace(server, headers=headers)
    path = path.removesuffix("/chat/completions").removesuffix("/completions") or "/v1"
    answer = fetch(server, f"{path}/models")
    entries = dictionary(answer).get("data")
    if not isinstance(entries, list):
        raise UserError(
            f"the server at {server} does not list models at {path}/models: HTTP {answer.status}",
            "give the URL that ends in /v1",
        )
    names = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
    if model is not None and model not in names:
        missing(server, model, names, f"{path}/models does not name it")
    return OpenAIEndpoint(server, path, only(server, names) if model is None else model)


def stream_chat(
    endpoint: OpenAIEndpoint, messages: Sequence[Mapping[str, str]], *, count: int, timeout_s: float = _TIMEOUT_S
) -> StreamedAnswer:
    """Have a chat answered greedily with up to ``count`` tokens, piece by piece.

    Raises:
        UserError: When the server refuses it, breaks off, is too slow, or answers something else.
    """
    content = {"messages": [dict(message) for message in messages], **_greedy(endpoint, count)}
    return _stream(endpoint, "chat/completions", content, timeout_s)


def stream_completion(
    endpoint: OpenAIEndpoint, prompt: str | Sequence[int], *, count: int, timeout_s: float = _TIMEOUT_S
) -> StreamedAnswer:
    """Have a text, or tokens, continued greedily with up to ``count`` tokens, piece by piece.

    Raises:
        UserError: When the server refuses it, breaks off, is too slow, or answers something else.
    """
    # llama-server names a token only beside its probability.
    content = {"prompt": _prompt(prompt), "logprobs": 1, **_greedy(endpoint, count)}
    return _stream(endpoint, "completions", content, timeout_s)


def greedy_tokens(
    endpoint: OpenAIEndpoint, prompt: Sequence[int], *, count: int, timeout_s: float = _TIMEOUT_S
) -> tuple[int, ...]:
    """Return the tokens that a prompt of tokens is continued with; an end token is among them where the server tells it.

    Raises:
        UserError: When the server refuses it, is too slow, or answers something else.
        NotApplicableError: When it does not tell tokens.
    """
    content = {"prompt": _prompt(prompt), "logprobs": 1, **_greedy(endpoint, count)}
    choice = _choice(endpoint, _ask(endpoint, "completions", content, timeout_s))
    ids = _ids(choice)
    if not ids and choice.get("text"):
        raise NotApplicableError(f"{endpoint} does not tell the tokens of what it writes")
    return ids


def prompt_logprobs(endpoint: OpenAIEndpoint, prompt: Sequence[int], *, timeout_s: float = _TIMEOUT_S) -> tuple[float, ...]:
    """Return the natural logarithm of the probability of each token of a prompt after those before it, all but the first's.

    Raises:
        UserError: When the server refuses it, is too slow, or answers something else.
        NotApplicableError: When it does not score prompts, as llama-server does not.
    """
    content = {"prompt": _prompt(prompt), "prompt_logprobs": 0, **_greedy(endpoint, 1), "stream": False}
    choice = _choice(endpoint, _ask(endpoint, "completions", content, timeout_s))
    listed = choice.get("prompt_logprobs")
    if not isinstance(listed, list):
        raise NotApplicableError(f"{endpoint} does not score prompts")
    try:
        return tuple(float(scores[str(token)]["logprob"]) for token, scores in zip(prompt[1:], listed[1:], strict=True))
    except (ValueError, LookupError, TypeError) as error:
        raise _nonsense(endpoint, f"scores that are none: {error}") from None


def _greedy(endpoint: OpenAIEndpoint, count: int) -> dict[str, Any]:
    # Without "cache_prompt" llama-server would take up what an earlier prompt left.
    return {
        "model": endpoint.model, "max_tokens": count, "temperature": 0, "seed": 0, "return_token_ids": True,
        "cache_prompt": False,
    }  # fmt: skip


def _prompt(prompt: str | Sequence[int]) -> str | list[int]:
    return prompt if isinstance(prompt, str) else [int(token) for token in prompt]


def _ask(endpoint: OpenAIEndpoint, path: str, content: Mapping[str, Any], timeout_s: float) -> Any:
    with _posted(endpoint, f"{endpoint.path}/{path}", content, timeout_s) as response:
        body = response.read(_MOST_BYTES)
    try:
        return json.loads(body)
    except ValueError:
        raise _nonsense(endpoint, "what is no JSON") from None


def _choice(endpoint: OpenAIEndpoint, event: Any) -> dict[str, Any]:
    """The one choice of an answer or of a piece of it; empty for a piece that only tells how much was used."""
    if not isinstance(event, dict) or not isinstance(event.get("choices"), list):
        reason = event.get("error") if isinstance(event, dict) else None
        raise _nonsense(endpoint, f"without choices{f': {str(reason)[:200]}' if reason else ''}")
    choices = event["choices"]
    if choices and not isinstance(choices[0], dict):
        raise _nonsense(endpoint, "choices that are none")
    return choices[0] if choices else {}


def _ids(choice: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens, as vLLM lists them (``token_ids``) or llama-server (each beside its probability)."""
    if isinstance(told := choice.get("token_ids"), list):
        return tuple(int(token) for token in told if isinstance(token, int))
    content = logprobs.get("content") if isinstance(logprobs := choice.get("logprobs"), dict) else None
    entries = content if isinstance(content, list) else []
    return tuple(int(entry["id"]) for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), int))


def _stream(endpoint: OpenAIEndpoint, path: str, content: Mapping[str, Any], timeout_s: float) -> StreamedAnswer:
    text: list[str] = []
    ids: list[int] = []
    events, first, finish, start = 0, 0.0, "", time.perf_counter()
    for event in _events(endpoint, path, {**content, "stream": True}, timeout_s):
        choice = _choice(endpoint, event)
        delta = choice.get("delta")
        piece = choice.get("text") or (
            delta.get("content") or delta.get("reasoning_content") if isinstance(delta, dict) else ""
        )
        tokens = _ids(choice)
        if piece or tokens:
            first = first or time.perf_counter() - start
            events += 1
        text.append(str(piece or ""))
        ids.extend(tokens)
        finish = str(choice.get("finish_reason") or finish)
    return StreamedAnswer("".join(text), tuple(ids), events, first, time.perf_counter() - start, finish)


def _events(endpoint: OpenAIEndpoint, path: str, content: Mapping[str, Any], timeout_s: float) -> Iterator[Any]:
    """The server-sent events of an answer up to the one that says that it is done."""
    with _posted(endpoint, f"{endpoint.path}/{path}", content, timeout_s) as response:
        size = 0
        while line := response.readline(_MOST_BYTES):
            size += len(line)
            if size > _MOST_BYTES:
                raise _nonsense(endpoint, f"more than {_MOST_BYTES >> 20} MiB")
            if not line.startswith(_DATA):
                continue
            data = line.removeprefix(_DATA).strip()
            if data == _DONE:
                return
            try:
                yield json.loads(data)
            except ValueError:
                raise _nonsense(endpoint, "a piece that is no JSON") from None
    raise UserError(f"{endpoint} breaks off an answer", "look at its log")


@contextlib.contextmanager
def _posted(
    endpoint: OpenAIEndpoint, path: str, content: Mapping[str, Any], timeout_s: float
) -> Iterator[http.client.HTTPResponse]:
    """Post, and give the answer to read from; its end is cut off after ``timeout_s``, however slowly it drips."""
    server, request = endpoint.server, json_request(content)
    kind = http.client.HTTPSConnection if server.tls else http.client.HTTPConnection
    connection = kind(server.host, server.port, timeout=timeout_s)
    late = threading.Event()
    opened: list[socket.socket] = []  # the connection forgets its own once the answer has begun

    def end() -> None:
        late.set()
        for each in opened:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        opened.append(connection.sock)
        connection.request("POST", path, request.body, dict(server.headers) | dict(request.headers))
        response = connection.getresponse()
        if response.status != 200:
            raise _refused(endpoint, Answer(response.status, {}, response.read(1 << 16)))
        yield response
        if late.is_set():
            raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise UserError(f"{endpoint} does not answer within {timeout_s:g} s", "look at its log") from None
        raise UserError(f"{endpoint} breaks off an answer: {error or type(error).__name__}", "look at its log") from None
    finally:
        timer.cancel()
        connection.close()


def _refused(endpoint: OpenAIEndpoint, answer: Answer) -> UserError:
    return UserError(f"{endpoint} refuses a request: HTTP {answer.status}: {answer.text}", "look at the server's log")


def _nonsense(endpoint: OpenAIEndpoint, what: str) -> UserError:
    return UserError(f"{endpoint} answers {what}", "check that it speaks OpenAI's protocol")
