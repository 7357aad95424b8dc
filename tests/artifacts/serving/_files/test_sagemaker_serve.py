"""The server in the image for SageMaker, besides what all services in Python keep to (test_python_servers.py)."""

import pytest

from mopt.loadgen.protocols import Request, ask, encode
from mopt.loadgen.protocols._http import fetch
from tests.artifacts.serving.services import feed, missing, serve

pytestmark = [pytest.mark.servers, pytest.mark.skipif(bool(missing("sagemaker")), reason=missing("sagemaker"))]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serve("sagemaker", "openvino", tmp_path_factory.mktemp("sagemaker")) as running:
        yield running


def test_it_is_healthy_by_ping(service):
    assert fetch(service.endpoint.server, "/ping").status == 200


def test_there_is_nothing_else(service):
    assert fetch(service.endpoint.server, "/").status == 404
    assert fetch(service.endpoint.server, "/invocations").status == 405


def test_a_request_that_is_too_large_is_refused_and_it_goes_on(service):
    answer = fetch(service.endpoint.server, "/invocations", Request(b" " * (33 << 20)))
    assert answer.status == 413
    assert ask(service.endpoint, *encode(service.endpoint, [feed(0)]))
