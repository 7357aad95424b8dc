import contextlib
import http.server
import json
import threading

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.loadgen.protocols import ask, connect, encode
from mopt.loadgen.protocols._rows import rows_outputs

FEED = {"x": np.array([[1, 2.5]], np.float32), "state": np.zeros((2, 1, 3), np.float32), "rate": np.array(8, np.int64)}
AXES = {"x": 0, "state": 1}


@contextlib.contextmanager
def rows():
    """A server of rows that answers with what it was sent, and one of tensors at another path."""

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer({}, 405)

        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/invocations":
                self._answer({"outputs": [{**tensor, "name": f"same_{tensor['name']}"} for tensor in content["inputs"]]}, 200)
            else:
                self._answer({"predictions": content["instances"]}, 200)

        def _answer(self, content, status):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_row_is_a_sample_without_its_batch_axis():
    with rows() as url:
        endpoint = connect(f"{url}/predict", protocol="instances", batch_axes=AXES)
        (request,) = encode(endpoint, [FEED])
        (row,) = json.loads(request.body)["instances"]
        assert row == {"x": [1, 2.5], "state": [[0, 0, 0], [0, 0, 0]], "rate": 8}
        np.testing.assert_array_equal(ask(endpoint, request)["x"], FEED["x"])


def test_a_row_of_a_model_without_a_batch_axis_is_all_of_it():
    with rows() as url:
        endpoint = connect(f"{url}/predict", protocol="instances", batch_axes={})
        (request,) = encode(endpoint, [FEED])
        assert json.loads(request.body)["instances"] == [{name: value.tolist() for name, value in FEED.items()}]
        for name, value in ask(endpoint, request).items():
            np.testing.assert_array_equal(value, FEED[name])


def test_without_axes_it_is_the_first():
    with rows() as url:
        endpoint = connect(f"{url}/predict", protocol="instances")
        np.testing.assert_array_equal(ask(endpoint, encode(endpoint, [{"x": FEED["x"]}])[0])["x"], FEED["x"])


def test_tensors_may_be_posted_to_any_path():
    with rows() as url:
        endpoint = connect(f"{url}/invocations", protocol="invocations")
        np.testing.assert_array_equal(ask(endpoint, encode(endpoint, [{"x": FEED["x"]}])[0])["same_x"], FEED["x"])


@pytest.mark.parametrize("protocol", ["instances", "invocations"])
def test_the_path_must_be_given(protocol):
    with rows() as url, pytest.raises(UserError, match="needs the path") as told:
        connect(url, protocol=protocol)
    assert told.value.hint == f"write {url}/PATH"


def test_an_output_without_a_name():
    np.testing.assert_array_equal(rows_outputs({"predictions": [[1, 2]]})["output"], [[1, 2]])


def test_an_answer_of_another_kind_is_a_mistake():
    with rows() as url:
        endpoint = connect(f"{url}/predict", protocol="invocations")
        request = encode(connect(f"{url}/predict", protocol="instances"), [{"x": FEED["x"]}])[0]
        with pytest.raises(UserError, match="what is not invocations"):
            ask(endpoint, request)
