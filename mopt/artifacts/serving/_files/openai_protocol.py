"""OpenAI's protocol over HTTP for an engine that answers one request at a time, while others wait.

mopt copies this file beside the service, which brings the engine. It needs nothing but Python's standard library.
"""

from __future__ import annotations

__all__ = ["Engine", "Piece", "Request", "RequestError", "Sampling", "Service", "TextStream", "read_request", "serve"]

import argparse
import contextlib
import dataclasses
import json
import math
import queue
import secrets
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

_MOST_BODY = 8 << 20
"""Bytes of a request."""
_MOST_WAITING = 64
"""Requests that wait; a further one is told to come back later."""
_MOST_STOPS = 4
_COMPLETION_TOKENS = 16
"""Of an answer to a text, when the request does not say; a chat goes on until the context is full."""
_BEFORE = 5
"""Tokens of the prompt that are enough to decode the next one as it stands in the whole."""
_UNFINISHED = "\ufffd"
"""What the last tokens are decoded to when they end within a character."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "top_logprobs": (0,), "suffix": ("",),
    "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "tools": ([],), "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},), "functions": ([],),
}  # fmt: skip
"""Options that it cannot carry out, each with the values that ask for nothing."""


class RequestError(Exception):
    """The request cannot be answered as it was made.

    Args:
        status: Of HTTP.
        message: For people.
        parameter: That is wrong.
        code: Of OpenAI, for programs.
    """

    def __init__(self, status: int, message: str, parameter: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code

    def body(self) -> dict[str, Any]:
        """Return what OpenAI's clients read."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; a temperature of 0 takes the likeliest."""

    temperature: float
    top_p: float
    seed: int


class Engine(Protocol):
    """What runs the model."""

    name: str
    """What clients call the model."""
    context: int
    """Tokens that prompt and answer may have together."""
    vocabulary: int
    """Tokens that there are."""
    ends: frozenset[int]
    """Tokens that end an answer and are none of its text."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, with the start token where the model has one."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a chat by the model's template.

        Raises:
            ValueError: When the model has none, or it refuses these messages.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""

    def generate(self, prompt: Sequence[int], count: int, sampling: Sampling, emit: Callable[[int], bool]) -> None:
        """Hand up to ``count`` tokens to ``emit`` as they are made, until it returns False."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that was checked."""

    prompt: tuple[int, ...]
    count: int
    sampling: Sampling
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    chat: bool
    ids: bool
    """Whether the tokens of the answer are told, as vLLM does."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: That is certain by now.
        ids: Tokens since the last piece.
        reason: Why the answer ended: ``stop`` or ``length``; None but for the last piece.
    """

    text: str
    ids: tuple[int, ...]
    reason: str | None = None


def read_request(body: Any, engine: Engine, *, chat: bool) -> Request:
    """Check a request and turn its prompt into tokens.

    Args:
        body: JSON data.
        engine: That is to answer it.
        chat: Whether it has messages, rather than a prompt.

    Raises:
        RequestError: When it is none, asks for what is not here, or leaves no room for an answer.
    """
    if not isinstance(body, dict):
        raise RequestError(400, "the body is no JSON object")
    if body.get("model") not in (None, engine.name):
        raise RequestError(404, f"the model is called {engine.name}, not {body['model']}", "model", "model_not_found")
    for option, values in _NEUTRAL.items():
        if body.get(option) is not None and body[option] not in values:
            raise RequestError(400, f"{option} is not supported here", option, "unsupported_parameter")
    if chat and body.get("logprobs"):
        raise RequestError(400, "logprobs is not supported here", "logprobs", "unsupported_parameter")
    prompt = _chat_prompt(body, engine) if chat else _text_prompt(body, engine)
    stream = _of_type(body, "stream", bool, False)
    extra = _of_type(body, "stream_options", dict, {})
    return Request(
        prompt=tuple(prompt),
        count=_count(body, engine, len(prompt), chat=chat),
        sampling=Sampling(
            temperature=_number(body, "temperature", 1.0, 0.0, 2.0),
            top_p=_number(body, "top_p", 1.0, 1e-6, 1.0),
            seed=_seed(body),
        ),
        stops=_stops(body),
        stream=stream,
        usage=bool(extra.get("include_usage")),
        chat=chat,
        ids=_of_type(body, "return_token_ids", bool, False),
    )


def _of_type(body: Mapping[str, Any], name: str, kind: type, otherwise: Any) -> Any:
    value = body.get(name)
    if value is None:
        return otherwise
    if not isinstance(value, kind):
        raise RequestError(400, f"{name} must be a {kind.__name__}", name)
    return value


def _number(body: Mapping[str, Any], name: str, otherwise: float, least: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return otherwise
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not plain or not least <= value <= most:
        raise RequestError(400, f"{name} must be a number from {least:g} to {most:g}", name)
    return float(value)


def _seed(body: Mapping[str, Any]) -> int:
    """The seed of the request; without one another answer each time."""
    seed = body.get("seed")
    if seed is None:
        return secrets.randbits(31)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise RequestError(400, "seed must be a whole number", "seed")
    return seed % (1 << 31)


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stops = body.get("stop")
    listed = [] if stops is None else [stops] if isinstance(stops, str) else stops
    if not isinstance(listed, list) or not all(isinstance(stop, str) and stop for stop in listed):
        raise RequestError(400, "stop must be a text, or a list of texts", "stop")
    if len(listed) > _MOST_STOPS:
        raise RequestError(400, f"stop may have {_MOST_STOPS} texts", "stop")
    return tuple(listed)


def _text_prompt(body: Mapping[str, Any], engine: Engine) -> list[int]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return engine.encode(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(item, int) for item in prompt):
        if not 0 <= min(prompt) <= max(prompt) < engine.vocabulary:
            raise RequestError(400, f"the model has {engine.vocabulary} tokens: 0 to {engine.vocabulary - 1}", "prompt")
        return prompt
    raise RequestError(400, "prompt must be a text, or the tokens of one", "prompt")


def _chat_prompt(body: Mapping[str, Any], engine: Engine) -> list[int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, "messages must be a list with at least one message", "messages")
    try:
        return engine.encode_chat([_message(message) for message in messages])
    except ValueError as error:
        raise RequestError(400, str(error), "messages") from None


def _message(message: Any) -> dict[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise RequestError(400, "this model reads text alone", "messages")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise RequestError(400, "each message must have a role and a content", "messages")
    return {"role": role, "content": content}


def _count(body: Mapping[str, Any], engine: Engine, used: int, *, chat: bool) -> int:
    room = engine.context - used
    if used == 0:
        raise RequestError(400, "the prompt has no tokens", "messages" if chat else "prompt")
    if room < 1:
        raise RequestError(
            400, f"the prompt has {used} tokens, and the context {engine.context}", "prompt", "context_length_exceeded"
        )
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    asked = body.get(name)
    if asked is None:
        return room if chat else min(room, _COMPLETION_TOKENS)
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise RequestError(400, f"{name} must be a whole number of at least 1", name)
    if asked > room:
        raise RequestError(
            400,
            f"the prompt has {used} tokens: an answer may have {room} with a context of {engine.context}, not {asked}",
            name,
            "context_length_exceeded",
        )
    return asked


class TextStream:
    """Turns tokens into text piece by piece, and looks for texts that end the answer.

    What may be the beginning of such a text, or is a part of a character, is held back until more is there.

    Args:
        decode: Tokens to text.
        stops: Texts that end the answer; none of them is in it.
        after: Tokens of the prompt, with which the first of the answer are decoded.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), after: Sequence[int] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._ids: list[int] = list(after[-_BEFORE:])
        self._begin, self._read = 0, len(self._ids)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Return the text that is certain with one more token."""
        self._ids.append(token)
        # Decoded with tokens before it: some tokenizers leave a space out where a text begins.
        before = self._decode(self._ids[self._begin : self._read])
        after = self._decode(self._ids[self._begin :])
        if after.endswith(_UNFINISHED) or len(after) <= len(before):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return self._certain(after[len(before) :])

    def end(self) -> str:
        """Return what is left."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._begin : self._read])
        after = self._decode(self._ids[self._begin :])
        rest = self._certain(after[len(before) :]) + ("" if self.stopped else self._held)
        self._held = ""
        return rest

    def _certain(self, text: str) -> str:
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that a stop begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


class Service:
    """Answers requests with an engine, one after the other."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._turn = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        self._began = int(time.time())

    def models(self) -> dict[str, Any]:
        """Return the list of the one model."""
        about = {"id": self.engine.name, "object": "model", "created": self._began, "owned_by": "mopt"}
        return {"object": "list", "data": [{**about, "max_model_len": self.engine.context}]}

    def pieces(self, request: Request) -> Generator[Piece]:
        """Answer a request; yield text as it is there.

        Raises:
            RequestError: When too many wait already.
        """
        if not self._waiting.acquire(blocking=False):
            raise RequestError(429, f"{_MOST_WAITING} requests wait already", code="rate_limit_exceeded")
        try:
            with self._turn:
                yield from self._answer(request)
        finally:
            self._waiting.release()

    def _answer(self, request: Request) -> Iterator[Piece]:
        made: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()
        on = threading.Event()
        on.set()
        worker = threading.Thread(target=self._generate, args=(request, made, on))
        worker.start()
        stream, ids, reason = TextStream(self.engine.decode, request.stops, request.prompt), list[int](), "length"
        try:
            while (token := made.get()) is not None:
                if isinstance(token, Exception):
                    raise token
                ids.append(token)
                if token in self.engine.ends:
                    reason = "stop"
                    break
                if text := stream.add(token):
                    yield Piece(text, tuple(ids))
                    ids.clear()
                if stream.stopped:
                    break
            text = stream.end()
            yield Piece(text, tuple(ids), "stop" if stream.stopped else reason)
        finally:
            on.clear()
            worker.join()

    def _generate(self, request: Request, made: queue.SimpleQueue[int | Exception | None], on: threading.Event) -> None:
        def emit(token: int) -> bool:
            made.put(token)
            return on.is_set() and token not in self.engine.ends

        try:
            self.engine.generate(request.prompt, request.count, request.sampling, emit)
        except Exception as error:  # noqa: BLE001 - it is raised again where the request is answered
            made.put(error)
        made.put(None)

    def whole(self, request: Request) -> dict[str, Any]:
        """Return an answer in one piece."""
        pieces = list(self.pieces(request))
        content, ids = "".join(piece.text for piece in pieces), [token for piece in pieces for token in piece.ids]
        choice = {"message": {"role": "assistant", "content": content}} if request.chat else {"text": content}
        token_ids = {"token_ids": ids} if request.ids else {}
        return {
            **self._head(request, chunk=False),
            "choices": [{"index": 0, **choice, "logprobs": None, "finish_reason": pieces[-1].reason, **token_ids}],
            "usage": _usage(request, len(ids)),
        }

    def chunks(self, request: Request) -> Generator[dict[str, Any]]:
        """Return an answer piece by piece."""
        head, count = self._head(request, chunk=True), 0
        with contextlib.closing(self.pieces(request)) as pieces:  # a client that is gone ends the engine's work
            for at, piece in enumerate(pieces):
                if request.chat and at == 0:
                    yield {**head, "choices": [_choice(request, {"delta": {"role": "assistant", "content": ""}})]}
                count += len(piece.ids)
                yield {**head, "choices": [_choice(request, _content(request, piece), piece)]}
        if request.usage:
            yield {**head, "choices": [], "usage": _usage(request, count)}

    def _head(self, request: Request, *, chunk: bool) -> dict[str, Any]:
        kind, prefix = ("chat.completion", "chatcmpl") if request.chat else ("text_completion", "cmpl")
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if chunk and request.chat else kind,
            "created": int(time.time()),
            "model": self.engine.name,
        }


def _content(request: Request, piece: Piece) -> dict[str, Any]:
    if request.chat:
        return {"delta": {"content": piece.text} if piece.text else {}}
    return {"text": piece.text}


def _choice(request: Request, content: Mapping[str, Any], piece: Piece | None = None) -> dict[str, Any]:
    token_ids = {"token_ids": list(piece.ids) if piece else []} if request.ids else {}
    return {"index": 0, **content, "logprobs": None, "finish_reason": piece.reason if piece else None, **token_ids}


def _usage(request: Request, count: int) -> dict[str, int]:
    used = len(request.prompt)
    return {"prompt_tokens": used, "completion_tokens": count, "total_tokens": used + count}


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    service: Service

    def do_GET(self) -> None:
        """Say which model there is, and that it is there."""
        path = self.path.partition("?")[0]
        if path == "/v1/models":
            return self._send(200, self.service.models())
        if path == f"/v1/models/{self.service.engine.name}":
            return self._send(200, self.service.models()["data"][0])
        if path == "/health":
            return self._send(200, {"status": "ok"})
        return self._refuse(RequestError(404, f"nothing is at {path}"))

    def do_POST(self) -> None:
        """Answer a request."""
        path = self.path.partition("?")[0]
        try:
            if path not in ("/v1/completions", "/v1/chat/completions"):
                self.close_connection = True  # its body is not read
                raise RequestError(404, f"nothing is at {path}")
            request = read_request(self._body(), self.service.engine, chat=path.endswith("/chat/completions"))
            if request.stream:
                self._stream(self.service.chunks(request))
            else:
                self._send(200, self.service.whole(request))
        except RequestError as mistake:
            self._refuse(mistake)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:  # the edge of the server: the client is told, and the log has the traceback
            self._refuse(RequestError(500, f"{type(error).__name__}: {error}"))
            raise

    def _body(self) -> Any:
        text = self.headers.get("Content-Length", "")
        if not text.isdecimal():
            self.close_connection = True
            raise RequestError(411, "the length of the body is missing")
        if int(text) > _MOST_BODY:
            self.close_connection = True
            raise RequestError(413, f"a request may have {_MOST_BODY} bytes")
        try:
            return json.loads(self.rfile.read(int(text)))
        except (ValueError, RecursionError):
            raise RequestError(400, "the body is no JSON") from None

    def _stream(self, chunks: Generator[dict[str, Any]]) -> None:
        first = next(chunks)  # whatever is wrong is told with a status of its own
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self._event(json.dumps(first, ensure_ascii=False))
            for chunk in chunks:
                self._event(json.dumps(chunk, ensure_ascii=False))
            self._event("[DONE]")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client is gone: the answer ends with it
        except Exception as error:  # the same, in the middle of a stream
            self._event(json.dumps(RequestError(500, f"{type(error).__name__}: {error}").body()))
            raise
        finally:
            chunks.close()

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _refuse(self, mistake: RequestError) -> None:
        self._send(mistake.status, mistake.body())

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing of each request."""


def serve(open_engine: Callable[[Mapping[str, Any], Path], Engine], folder: Path) -> None:
    """Serve until it is ended.

    Args:
        open_engine: Makes the engine from the settings and the folder of the model.
        folder: With ``settings.json``.
    """
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=f"Serve {settings['name']} with OpenAI's protocol.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all addresses")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", type=Path, default=folder / settings["model"], help="folder of the model")
    parser.add_argument("--threads", type=int, default=settings["threads"])
    arguments = parser.parse_args()
    engine = open_engine({**settings, "threads": arguments.threads}, arguments.model)
    handler = type("Handler", (_Handler,), {"service": Service(engine)})
    server = ThreadingHTTPServer((arguments.host, arguments.port), handler)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"{engine.name} is ready at http://{arguments.host}:{server.server_port}/v1", flush=True)  # noqa: T201
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
