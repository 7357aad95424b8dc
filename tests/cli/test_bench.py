import json

import pytest

from mopt.errors import CheckFailedError, UserError
from mopt.records.benchmark import LoadTest, ServerBenchmark
from tests.cli.results import benchmark
from tests.cli.running import run
from tests.manifests import estimate


def load_test(rate, p99, **changes):
    figures = {name: estimate(p99 * share) for name, share in (("p50", 0.5), ("p95", 0.9), ("p99", 1.0), ("p999", 1.2))}
    return LoadTest(rate=rate, achieved=rate, requests=1000, **figures, **changes)


@pytest.fixture
def measured(monkeypatch):
    """Say what was measured."""

    def measures(**changes):
        result = benchmark().model_copy(update=changes)
        monkeypatch.setattr("mopt.workflows.bench.bench_artifact", lambda *_, **__: result)
        return result

    return measures


def test_a_profile_is_a_table_and_a_few_lines(measured):
    measured()
    shown = run("bench", "m.mopt", "--quiet").stdout
    assert "1 x 1" in shown
    assert "start     1,500 ms to load, 300 ms to answer first" in shown
    assert "Open-loop" not in shown


def test_a_rate_that_does_not_hold_fails_with_its_table(measured):
    tests = (load_test(100, 120, failed=30, warning="the client was the limit", predicted_p99_ms=90, utilization=0.7),)
    measured(tests=tests, p99_ms=100.0, largest=None, holds=False)
    with pytest.raises(CheckFailedError, match="100 requests/s do not hold within 50 ms"):
        run("bench", "m.mopt", "--rate", 100, "--p99", "50ms", "--quiet")


def test_the_table_of_a_load_says_what_held(measured):
    tests = (load_test(100, 40), load_test(200, 300, failed=30, warning="the client was the limit"))
    measured(tests=tests, p99_ms=100.0, largest=100.0, holds=True)
    shown = run("bench", "m.mopt", "--rate", 100, "--p99", "100ms", "--quiet").stdout
    assert "30 of 1,000 without an answer" in " ".join(shown.split())
    assert "warning   the client was the limit" in shown
    assert "largest   100 /s within a p99 of 100 ms" in shown
    assert "yes" in shown


def test_the_file_for_size_holds_what_json_shows(measured, tmp_path):
    result = measured()
    shown = run("bench", "m.mopt", "--out", tmp_path / "p.json", "--json", "--quiet").stdout
    assert json.loads(shown) == json.loads(result.model_dump_json()) == json.loads((tmp_path / "p.json").read_text())
    with pytest.raises(UserError, match="exists already"):
        run("bench", "m.mopt", "--out", tmp_path / "p.json")


def test_a_server_is_asked_with_what_was_given(received, monkeypatch):
    result = ServerBenchmark(server="m at h:8000", protocol="kserve-http", p99_ms=None, tests=(load_test(5, 10),))
    calls = []
    monkeypatch.setattr("mopt.workflows.bench_server.bench_server", lambda *given, **_: calls.append(given) or result)
    headers = ["--header", "A: b: c", "--header", "Token:x"]
    run("bench", "m.mopt", "--server", "http://h:8000", "--rate", 5, "--timeout", "250ms", "--no-predict", *headers, "--quiet")
    ((_, access, load),) = calls
    assert access.headers == (("A", "b: c"), ("Token", "x"))
    assert (access.url, access.timeout_s, access.predict, load.rate) == ("http://h:8000", 0.25, False, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--header", "no colon"], "--header is about a server"),
        (["--server", "http://h", "--rate", "5", "--header", "no colon"], "--header no colon is not a header"),
        (["--server", "http://h", "--rate", "5", "--header", "A: b\nC: d"], "is not a header"),
        (["--server", "http://h"], "nothing to test the server with"),
        (["--server", "http://h", "--rate", "5", "--out", "p.json"], "--out is about an own replica"),
    ],
)
def test_an_option_that_would_do_nothing_or_harm_is_refused(arguments, message, received):
    with pytest.raises(UserError, match=message):
        run("bench", "m.mopt", *arguments, "--quiet")
