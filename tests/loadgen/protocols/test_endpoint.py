import pytest

from mopt.errors import UserError
from mopt.loadgen.protocols import Server, connect
from mopt.loadgen.protocols._endpoint import AmbiguousModelError, missing, only, parse
from tests.loadgen.protocols.cases import one_line


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host", "no URL of a server"),
        ("http://", "no URL of a server"),
        ("http://host:port", "no URL: Port"),
        ("http://[::1", "no URL: Invalid"),
        ("http://a..b", "no URL: .*label"),
        ("http://a host", "no URL of a server"),
        ("http://host/two words", "no URL of a server"),
        ("http://host/naïve", "no URL: .*ascii"),
    ],
)
def test_what_is_no_url_is_told(url, message):
    with pytest.raises(UserError, match=message) as told:
        connect(url)
    assert one_line(told.value)


@pytest.mark.parametrize(
    ("url", "scheme", "server", "path"),
    [
        ("host", "http", Server("host", 80), ""),
        ("http://host:8000/v2/", "http", Server("host", 8000), "/v2"),
        ("https://host", "https", Server("host", 443, tls=True), ""),
        ("grpc://host", "grpc", Server("host", 8001), ""),
        ("grpcs://[::1]:9/m", "grpcs", Server("::1", 9, tls=True), "/m"),
    ],
)
def test_a_url_says_server_and_path(url, scheme, server, path):
    assert parse(url) == (scheme, server, path)


def test_a_server_is_written_as_it_is_read_and_keeps_its_headers_to_itself():
    server = Server("::1", 8000, tls=True, headers=(("Authorization", "Bearer secret"),))
    assert server.url == "https://[::1]:8000"
    assert server.metadata == (("authorization", "Bearer secret"),)
    assert "secret" not in repr(server)


def test_the_only_one_is_taken_and_what_is_in_doubt_is_told():
    server = Server("host", 1)
    assert only(server, ["a"]) == "a"
    with pytest.raises(AmbiguousModelError, match="2 models: a, b"):
        only(server, ["a", "b"])
    with pytest.raises(AmbiguousModelError, match="no route that it names"):
        only(server, [], "route")
    with pytest.raises(UserError, match="no model c") as told:
        missing(server, "c", ["a", "b"], "reason")
    assert told.value.hint == "it has a, b"
