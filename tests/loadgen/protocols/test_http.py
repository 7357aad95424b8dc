import contextlib
import http.server
import json
import socket
import threading

import pytest

from mopt.errors import UserError
from mopt.loadgen.protocols import Request, Server
from mopt.loadgen.protocols._http import Answer, dictionary, fetch, json_request


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = {"method": self.command, "path": self.path, "token": self.headers["Token"], "body": body.decode()}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def echo():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Server("127.0.0.1", server.server_port, headers=(("Token", "secret"),))
        server.shutdown()


def test_a_path_is_got_and_a_request_is_posted_with_the_headers(echo):
    assert dictionary(fetch(echo, "")) == {"method": "GET", "path": "/", "token": "secret", "body": ""}
    posted = dictionary(fetch(echo, "/a", Request(b"content")))
    assert posted == {"method": "POST", "path": "/a", "token": "secret", "body": "content"}


@contextlib.contextmanager
def listening(answer):
    """A server that answers each connection with some bytes, or not at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    if answer is not None:
                        connection.sendall(answer)
                    else:
                        connection.recv(1 << 16)
                        ended.wait()

        ended = threading.Event()
        threading.Thread(target=serve, daemon=True).start()
        yield Server("127.0.0.1", listener.getsockname()[1])
        ended.set()


@pytest.mark.parametrize(
    ("answer", "message"), [(b"\x00\x01 no HTTP\r\n", "does not speak HTTP"), (None, "does not answer within 0.1 s")]
)
def test_a_server_that_answers_nothing_or_something_else_is_told(answer, message):
    with listening(answer) as server, pytest.raises(UserError, match=message):
        fetch(server, "/", timeout=0.1)


@pytest.mark.parametrize(
    ("status", "body", "expected"), [(200, b'{"a": 1}', {"a": 1}), (404, b'{"a": 1}', {}), (200, b"[1]", {}), (200, b"<", {})]
)
def test_only_a_json_object_is_a_dictionary(status, body, expected):
    assert dictionary(Answer(status, {}, body)) == expected


def test_the_text_of_an_answer_is_one_short_line():
    assert Answer(500, {}, b"line\n  two \xff").text == "line two \N{REPLACEMENT CHARACTER}"
    assert len(Answer(500, {}, b"x" * 1000).text) == 300


def test_json_carries_no_nan():
    assert json_request({"a": [1]}).body == b'{"a":[1]}'
    with pytest.raises(UserError, match="NaN or infinity"):
        json_request({"a": float("nan")})
