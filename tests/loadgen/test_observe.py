import pytest

from mopt.errors import UserError
from mopt.loadgen import observe
from mopt.loadgen.observe import observe_server
from mopt.loadgen.protocols import connect, encode
from tests import servers
from tests.loadgen.protocols.cases import ONE


def look(server, **options):
    endpoint = connect(f"http://127.0.0.1:{server.port}")
    return observe_server(endpoint, encode(endpoint, [ONE]), 2, timeout_s=5.0, **options)


@pytest.mark.slow
def test_the_capacity_of_a_server_and_its_latency_under_a_moderate_load_are_seen(monkeypatch):
    monkeypatch.setattr(observe, "_SECONDS", 0.2)
    monkeypatch.setattr(observe, "_FEWEST", 20)
    service = 0.004
    with servers.Queue(service) as server:
        seen = look(server, batches=25)
    assert len(seen.ends_ms) >= 25
    apart = (seen.ends_ms[-1] - seen.ends_ms[0]) / (len(seen.ends_ms) - 1)
    assert apart >= 2 * service * 1e3, "no machine is faster than the server sleeps"
    assert len(seen.arrivals_ms) == len(seen.latency_ms) >= 20
    assert (seen.latency_ms >= service * 1e3).all()


def test_a_server_that_does_not_answer_all_is_told(monkeypatch):
    with servers.Queue(0.001, capacity=2) as server, pytest.raises(UserError, match=r"answered \d+ of \d+ requests"):
        look(server, batches=5)
