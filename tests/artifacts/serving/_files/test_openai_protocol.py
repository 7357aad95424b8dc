"""Requests are checked, answers come piece by piece, stops are held back, and one request at a time is answered."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from http.server import ThreadingHTTPServer

import pytest

from mopt.artifacts.serving._files import openai_protocol
from mopt.artifacts.serving._files.openai_protocol import RequestError, Sampling, Service, TextStream, read_request

WAIT_S = 10.0
END = 0


class Spelling:
    """Its tokens are the bytes of UTF-8, and it answers with a text; 0 ends an answer."""

    name, context, vocabulary, ends = "spelling", 40, 256, frozenset({END})

    def __init__(self, answer="abc", chat=True):
        self.answer, self._chat = answer, chat
        self.asked = []
        self.may = threading.Event()
        self.may.set()
        self.under_way = threading.Event()
        self.fails = ""

    def encode(self, text):
        return list(text.encode())

    def encode_chat(self, messages):
        if not self._chat:
            raise ValueError("no chat template")
        return self.encode("".join(f"{message['role']}: {message['content']}" for message in messages))

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")

    def generate(self, prompt, count, sampling, emit):
        self.asked.append((bytes(prompt), count, sampling))
        for token in [*self.answer.encode(), END][:count]:
            self.under_way.set()
            assert self.may.wait(WAIT_S)
            if self.fails:
                raise RuntimeError(self.fails)
            if not emit(token):
                return


@pytest.mark.parametrize(
    ("body", "status", "parameter"),
    [
        ([], 400, None),
        ({}, 400, "prompt"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": ["a", "b"]}, 400, "prompt"),
        ({"prompt": [256]}, 400, "prompt"),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"prompt": 5}, 400, "prompt"),
        ({"prompt": "x" * 40}, 400, "prompt"),
        ({"prompt": "a", "model": "other"}, 404, "model"),
        ({"prompt": "a", "max_tokens": 40}, 400, "max_tokens"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, 400, "max_tokens"),
        ({"prompt": "a", "max_tokens": 1.5}, 400, "max_tokens"),
        ({"prompt": "a", "temperature": -1}, 400, "temperature"),
        ({"prompt": "a", "temperature": "hot"}, 400, "temperature"),
        ({"prompt": "a", "temperature": float("nan")}, 400, "temperature"),
        ({"prompt": "a", "top_p": 0}, 400, "top_p"),
        ({"prompt": "a", "seed": "x"}, 400, "seed"),
        ({"prompt": "a", "stop": [""]}, 400, "stop"),
        ({"prompt": "a", "stop": ["a", "b", "c", "d", "e"]}, 400, "stop"),
        ({"prompt": "a", "stream": "yes"}, 400, "stream"),
        ({"prompt": "a", "n": 2}, 400, "n"),
        ({"prompt": "a", "echo": True}, 400, "echo"),
        ({"prompt": "a", "return_token_ids": 1}, 400, "return_token_ids"),
        ({"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty"),
    ],
)
def test_what_is_wrong_is_told(body, status, parameter):
    with pytest.raises(RequestError) as refused:
        read_request(body, Spelling(), chat=False)
    assert (refused.value.status, refused.value.parameter) == (status, parameter)
    error = refused.value.body()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize(
    "messages",
    [None, [], "hi", ["hi"], [{"role": "user"}], [{"content": "a"}], [{"role": "user", "content": [{"type": "image_url"}]}]],
)
def test_messages_that_are_none_are_refused(messages):
    with pytest.raises(RequestError) as refused:
        read_request({"messages": messages}, Spelling(), chat=True)
    assert (refused.value.status, refused.value.parameter) == (400, "messages")


def test_without_a_template_there_is_no_chat():
    with pytest.raises(RequestError, match="no chat template"):
        read_request({"messages": [{"role": "user", "content": "a"}]}, Spelling(chat=False), chat=True)


def test_a_request_is_read():
    body = {
        "model": "spelling", "prompt": "ab", "max_tokens": 38, "temperature": 0, "top_p": 0.5, "seed": 7, "stop": "x",
        "stream": True, "stream_options": {"include_usage": True}, "n": 1, "logprobs": None, "user": "me",
    }  # fmt: skip
    request = read_request(body, Spelling(), chat=False)
    assert request.prompt == (97, 98)
    assert request.count == 38
    assert request.sampling == Sampling(0.0, 0.5, 7)
    assert request.stops == ("x",)
    assert request.stream
    assert request.usage
    assert read_request({"prompt": [97]}, Spelling(), chat=False).prompt == (97,)
    assert read_request({"prompt": [[97]]}, Spelling(), chat=False).count == 16


def test_a_chat_goes_on_until_the_context_is_full():
    messages = [{"role": "u", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    request = read_request({"messages": messages}, Spelling(), chat=True)
    assert bytes(request.prompt) == b"u: ab"
    assert request.count == 35
    assert read_request({"messages": messages, "max_completion_tokens": 3}, Spelling(), chat=True).count == 3


def test_without_a_seed_answers_differ():
    seeds = {read_request({"prompt": "a"}, Spelling(), chat=False).sampling.seed for _ in range(8)}
    assert len(seeds) > 1


def _streamed(text, stops=()):
    stream, pieces = TextStream(lambda ids: bytes(ids).decode(errors="replace"), stops), []
    for token in text.encode():
        pieces.append(stream.add(token))
        if stream.stopped:
            return pieces, True
    return [*pieces, stream.end()], stream.stopped


def test_a_character_is_given_when_it_is_whole():
    pieces, _ = _streamed("aé€😀b")
    assert "".join(pieces) == "aé€😀b"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_broken_character_at_the_end_is_given():
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"))
    assert stream.add(0xC3) == ""
    assert stream.end() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("hello world", ["wor"], "hello "),
        ("aab", ["ab"], "a"),
        ("abab", ["abc"], "abab"),
        ("xENDy", ["ND", "END"], "x"),
        ("abc", ["abc"], ""),
        ("ab", ["abc"], "ab"),
    ],
)
def test_a_stop_ends_the_answer_and_is_not_in_it(text, stops, expected):
    pieces, stopped = _streamed(text, stops)
    assert "".join(pieces) == expected
    assert stopped == (expected != text)


def test_spaces_of_a_tokenizer_that_strips_them_are_kept():
    words = {1: "▁the", 2: "▁world"}
    stream = TextStream(lambda ids: "".join(words[token] for token in ids).replace("▁", " ").removeprefix(" "))
    assert stream.add(1) + stream.add(2) + stream.end() == "the world"


def test_the_first_token_is_decoded_after_the_prompt():
    stream = TextStream(lambda ids: "".join(f" {token}" for token in ids).removeprefix(" "), after=[7] * 9)
    assert stream.add(1) + stream.add(2) + stream.end() == " 1 2"


def _read(body, engine, *, chat=False):
    return read_request(body, engine, chat=chat)


def test_an_answer_in_one_piece_counts_its_tokens():
    engine = Spelling("hi")
    answer = Service(engine).whole(_read({"prompt": "a"}, engine))
    assert answer["choices"] == [{"index": 0, "text": "hi", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    chat = Service(engine).whole(_read({"messages": [{"role": "u", "content": "a"}], "max_tokens": 1}, engine, chat=True))
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "h"}
    assert chat["choices"][0]["finish_reason"] == "length"


def test_tokens_are_told_where_they_are_asked_for():
    engine = Spelling("é!")
    request = _read({"prompt": "a", "return_token_ids": True, "logprobs": 1}, engine)
    service = Service(engine)
    assert service.whole(request)["choices"][0]["token_ids"] == [0xC3, 0xA9, 33, END]
    chunks = [chunk["choices"][0] for chunk in service.chunks(request)]
    assert [(chunk["text"], chunk["token_ids"]) for chunk in chunks] == [("é", [0xC3, 0xA9]), ("!", [33]), ("", [END])]
    assert "token_ids" not in service.whole(_read({"prompt": "a"}, engine))["choices"][0]


def test_a_chat_with_probabilities_is_refused():
    with pytest.raises(RequestError, match="logprobs"):
        _read({"messages": [{"role": "u", "content": "a"}], "logprobs": True}, Spelling(), chat=True)


def test_a_stop_ends_the_work_of_the_engine():
    engine = Spelling("abcdefgh" * 4)
    answer = Service(engine).whole(_read({"prompt": "a", "max_tokens": 30, "stop": ["cd"]}, engine))
    assert answer["choices"][0]["text"] == "ab"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 4


def test_what_the_engine_raises_is_raised():
    engine = Spelling()
    engine.fails = "out of memory"
    with pytest.raises(RuntimeError, match="out of memory"):
        Service(engine).whole(_read({"prompt": "a"}, engine))
    engine.fails = ""
    assert Service(engine).whole(_read({"prompt": "a"}, engine))["choices"][0]["text"] == "abc"


def test_too_many_that_wait_are_told_to_come_back(monkeypatch):
    monkeypatch.setattr(openai_protocol, "_MOST_WAITING", 1)
    engine = Spelling()
    service, request = Service(engine), _read({"prompt": "a"}, engine)
    first = service.pieces(request)
    next(first)
    with pytest.raises(RequestError) as refused:
        next(service.pieces(request))
    assert refused.value.status == 429
    first.close()
    assert service.whole(request)["choices"][0]["text"] == "abc"


@contextlib.contextmanager
def _served(engine):
    handler = type("Handler", (openai_protocol._Handler,), {"service": Service(engine)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=WAIT_S)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _ask(connection, path, body, method="POST"):
    connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body).encode())
    response = connection.getresponse()
    return response.status, response.read()


def test_over_http_it_streams_events():
    with _served(Spelling("hé")) as connection:
        body = {"messages": [{"role": "u", "content": "a"}], "stream": True, "stream_options": {"include_usage": True}}
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode())
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("Content-Type").startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.read().decode().splitlines() if line]
    *chunks, done = events
    assert done == "[DONE]"
    read = [json.loads(chunk) for chunk in chunks]
    assert read[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in read[:-1]) == "hé"
    assert read[-2]["choices"][0]["finish_reason"] == "stop"
    assert read[-1]["usage"]["completion_tokens"] == 4
    assert len({chunk["id"] for chunk in read}) == 1
    assert {chunk["object"] for chunk in read} == {"chat.completion.chunk"}


def test_over_http_mistakes_are_openai_errors_and_the_connection_lives():
    with _served(Spelling()) as connection:
        for path, body, status in (
            ("/v1/completions", b"{", 400),
            ("/v1/completions", {"prompt": "a", "n": 3}, 400),
            ("/v1/completions", {"prompt": "a", "stream": True, "max_tokens": 999}, 400),
            ("/v1/nothing", {}, 404),
        ):
            answered, content = _ask(connection, path, body)
            assert answered == status
            assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
        assert _ask(connection, "/v1/completions", {"prompt": "a"})[0] == 200
        status, content = _ask(connection, "/v1/models", b"", "GET")
        assert (status, json.loads(content)["data"][0]["id"]) == (200, "spelling")
        assert _ask(connection, "/health", b"", "GET")[0] == 200
        assert _ask(connection, "/v1/models/other", b"", "GET")[0] == 404


def test_over_http_a_client_that_goes_away_ends_its_answer_and_the_next_is_answered():
    engine = Spelling("x" * 30)
    with _served(engine) as connection:
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 30, "stream": True}).encode())
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        engine.may.clear()
        response.close()
        connection.close()
        engine.may.set()
        status, content = _ask(connection, "/v1/completions", {"prompt": "b", "max_tokens": 2})
    assert (status, json.loads(content)["choices"][0]["text"]) == (200, "xx")
    assert [asked[0] for asked in engine.asked] == [b"a", b"b"]
