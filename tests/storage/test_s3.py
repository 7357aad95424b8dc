import http.server
import threading

import pytest

from mopt.errors import UserError
from mopt.storage.s3 import S3
from tests.cli.running import run
from tests.stores import SECRET


@pytest.mark.parametrize(
    ("etag", "digests"),
    [
        ('"b1946ac92492d2347c6235b4d2611184"', {"md5": "b1946ac92492d2347c6235b4d2611184"}),
        ('"b1946ac92492d2347c6235b4d2611184-3"', {}),
        ("", {}),
    ],
    ids=["one part", "several parts", "none"],
)
def test_an_etag_is_an_md5_only_of_what_was_put_in_one_part(etag, digests):
    file = S3("s3://b/x").remote_file("x", {"ETag": etag, "size": 6})
    assert file.digests == digests
    assert (file.name, file.size, file.version) == ("x", 6, etag.strip('"'))


def test_an_md5_that_differs_is_no_proof_for_it_may_be_encrypted():
    assert "md5" not in S3.proves


def test_kserve_takes_the_same_url():
    assert S3("s3://b/models/a/").serving_uri("serving/triton") == "s3://b/models/a/serving/triton"


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server whose refusal repeats what it was sent, and a secret."""

    def answer(self):
        text = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{SECRET} {dict(self.headers)}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_HEAD = do_PUT = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing(monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'mopt[s3]'")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "PLANTEDKEYID")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield
        server.shutdown()


def test_what_a_server_says_of_secrets_is_repeated_nowhere(refusing, capfd):
    with pytest.raises(UserError) as refused:
        run("verify", "s3://bucket/models/a")
    seen = capfd.readouterr()
    shown = refused.value.message + refused.value.hint + seen.out + seen.err
    assert "access is denied" in refused.value.message
    assert SECRET not in shown
    assert "PLANTEDKEYID" not in shown
