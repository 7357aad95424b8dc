import contextlib
import http.server
import json
import threading
import time

import pytest

from mopt.errors import NotApplicableError, UserError
from mopt.loadgen.protocols._openai import connect_openai, greedy_tokens, prompt_logprobs, stream_chat, stream_completion


@contextlib.contextmanager
def answering(answer, models=("tiny",)):
    """A server of OpenAI's protocol that answers each request with what ``answer`` makes of path and content."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, json.dumps({"data": [{"id": name} for name in models]} if models else {}).encode())

        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, content))
            status, body = answer(content)
            if isinstance(body, bytes):
                self._send(status, body)
                return
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(OSError):
                for piece in body:
                    self.wfile.write(piece)
                    self.wfile.flush()

        def _send(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def events(*choices):
    return [f"data: {json.dumps({'choices': [choice]})}\n\n".encode() for choice in choices] + [b"data: [DONE]\n\n"]


def test_a_chat_is_put_together_from_its_pieces():
    pieces = events(
        {"delta": {"role": "assistant", "content": ""}},
        {"delta": {"content": "Hel"}, "token_ids": [4]},
        {"delta": {"content": "lo"}, "token_ids": [5, 6]},
        {"delta": {}, "finish_reason": "stop"},
    )
    with answering(lambda _: (200, [b": a comment\n\n", *pieces])) as (url, asked):
        answer = stream_chat(connect_openai(url), [{"role": "user", "content": "Hi"}], count=3)
    assert (answer.text, answer.ids, answer.events, answer.finish) == ("Hello", (4, 5, 6), 2, "stop")
    assert 0 < answer.first_seconds <= answer.seconds
    path, content = asked[0]
    assert path == "/v1/chat/completions"
    assert (content["model"], content["max_tokens"], content["temperature"], content["stream"]) == ("tiny", 3, 0, True)


def test_a_completion_names_its_tokens_as_llama_server_does():
    pieces = events(
        {"text": "a", "logprobs": {"content": [{"id": 7, "token": "a", "logprob": -1.0}]}},
        {"text": "b", "logprobs": {"content": [{"id": 8, "token": "b", "logprob": -1.0}]}, "finish_reason": "length"},
    )
    with answering(lambda _: (200, pieces)) as (url, asked):
        answer = stream_completion(connect_openai(url), [1, 2], count=2)
    assert (answer.text, answer.ids, answer.finish) == ("ab", (7, 8), "length")
    assert asked[0][1]["prompt"] == [1, 2]
    assert asked[0][1]["cache_prompt"] is False


def test_a_piece_that_only_counts_is_no_piece():
    usage = [b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n']
    with answering(lambda _: (200, [*usage, *events({"text": "a"})])) as (url, _):
        assert stream_completion(connect_openai(url), "x", count=1).events == 1


def test_greedy_tokens_and_scores_of_a_prompt():
    def answer(content):
        scores = [None, {"5": {"logprob": -0.5}}, {"9": {"logprob": -3.0}, "6": {"logprob": -0.25}}]
        choice = {"text": "a", "token_ids": [3, 2], **({"prompt_logprobs": scores} if "prompt_logprobs" in content else {})}
        return 200, json.dumps({"choices": [choice]}).encode()

    with answering(answer) as (url, _):
        endpoint = connect_openai(url)
        assert greedy_tokens(endpoint, [1, 5, 6], count=2) == (3, 2)
        assert prompt_logprobs(endpoint, [1, 5, 6]) == (-0.5, -0.25)
        with pytest.raises(UserError, match="scores that are none"):
            prompt_logprobs(endpoint, [1, 5])


def test_a_server_that_does_not_tell_is_not_blamed():
    with answering(lambda _: (200, b'{"choices": [{"text": "a"}]}')) as (url, _):
        endpoint = connect_openai(url)
        with pytest.raises(NotApplicableError, match="does not tell the tokens"):
            greedy_tokens(endpoint, [1], count=1)
        with pytest.raises(NotApplicableError, match="does not score prompts"):
            prompt_logprobs(endpoint, [1])


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": "too long"}', "refuses a request: HTTP 400"),
        (200, [b"data: no json\n\n"], "a piece that is no JSON"),
        (200, [b'data: {"error": "out of memory"}\n\n'], "without choices: out of memory"),
        (200, [b'data: {"choices": [1]}\n\n'], "choices that are none"),
        (200, events({"text": "a"})[:1], "breaks off"),
    ],
    ids=["refused", "no-json", "error", "no-choice", "cut"],
)
def test_what_is_no_answer_is_told(status, body, said):
    with answering(lambda _: (status, body)) as (url, _):
        endpoint = connect_openai(url)
        with pytest.raises(UserError, match=said):
            stream_completion(endpoint, "x", count=1)


def test_an_answer_that_drips_is_cut_off():
    def drip():
        while True:
            yield b": \n\n"
            time.sleep(0.01)

    with answering(lambda _: (200, drip())) as (url, _):
        endpoint, start = connect_openai(url), time.perf_counter()
        for ask in (stream_completion, greedy_tokens):
            with pytest.raises(UserError, match=r"does not answer within 0\.1 s"):
                ask(endpoint, [1], count=1, timeout_s=0.1)
        assert time.perf_counter() - start < 5


def test_a_model_is_found_or_told():
    with answering(lambda _: (200, b""), models=("a", "b")) as (url, _):
        assert connect_openai(url.removesuffix("/v1"), model="b").model == "b"
        assert connect_openai(f"{url}/chat/completions", model="a").path == "/v1"
        with pytest.raises(UserError, match="no model c"):
            connect_openai(url, model="c")
        with pytest.raises(UserError, match="2 models"):
            connect_openai(url)
    with answering(lambda _: (200, b""), models=()) as (url, _), pytest.raises(UserError, match="does not list models"):
        connect_openai(url)
