import contextlib
import http.server
import json
import threading

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.loadgen.protocols import ask, connect, encode
from mopt.loadgen.protocols._bentoml import bentoml_outputs
from tests.loadgen.protocols.cases import ONE

PREDICT = {"route": "/predict", "batchable": True, "input": {"properties": {"x": {}}}}
OTHER = {"route": "/metadata", "input": {}}


@contextlib.contextmanager
def bentoml(*routes, ready=200):
    """As much of BentoML's HTTP as a client sees; its routes double ``x``."""

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = {"/schema.json": json.dumps({"routes": routes}), "/readyz": ""}
            self._answer(known.get(self.path, ""), (ready if self.path == "/readyz" else 200) if self.path in known else 404)

        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(json.dumps((2 * np.array(content["x"])).tolist()), 200)

        def _answer(self, text, status):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_route_that_batches_is_found_and_answers():
    with bentoml(OTHER, PREDICT) as url:
        endpoint = connect(url)
        assert (endpoint.protocol, endpoint.path, endpoint.inputs) == ("bentoml", "/predict", {"x": None})
        np.testing.assert_array_equal(ask(endpoint, encode(endpoint, [ONE])[0])["output"], 2 * ONE["x"])


def test_a_route_may_be_named():
    with bentoml(OTHER, PREDICT) as url:
        assert connect(f"{url}/metadata").path == "/metadata"
        assert connect(url, model="metadata", protocol="bentoml").path == "/metadata"
        with pytest.raises(UserError, match="no route /predcit") as told:
            connect(f"{url}/predcit")
        assert told.value.hint == "it has /metadata, /predict"


def test_several_routes_or_a_server_that_is_not_ready_are_told():
    with bentoml(PREDICT, {**PREDICT, "route": "/other"}) as url, pytest.raises(UserError, match="2 routes: predict, other"):
        connect(url)
    with bentoml(PREDICT, ready=503) as url, pytest.raises(UserError, match="is not ready"):
        connect(url)


def test_outputs_have_names_or_one_name():
    assert bentoml_outputs({"a": [1], "b": [2]}).keys() == {"a", "b"}
    assert bentoml_outputs([[1]])["output"].shape == (1, 1)
