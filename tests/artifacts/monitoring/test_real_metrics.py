"""What the rules use is what the real server exports: names, labels, units, and what is counted as answered and as failed."""

from __future__ import annotations

import json
import re
import statistics
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mopt.artifacts.serving._base import Ports, make_system
from mopt.artifacts.serving._exported import Exported
from mopt.loadgen.protocols import Endpoint, ask, connect, encode, encode_unchecked, refusal
from mopt.loadgen.server_process import free_ports, running
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.system.environments import find_environment
from tests.artifacts.monitoring.prometheus import EXPORTED
from tests.artifacts.serving import services

LIGHT = ("triton", "bentoml", "litserve", "kserve")
OTHERS = ("mlserver", "ray_serve", "torchserve")
RUNTIMES = {"kserve": ("onnxruntime", "openvino")}
"""KServe's image is Triton's for the one, and has KServe's own server for the other."""
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
threes (float[batch, width] x) => (float[batch, 3] y) <int64[2] shape = {-1, 3}> { y = Reshape (x, shape) }
"""
"""By its signature it takes any width, and in truth but three."""
SPECS = {
    "x": TensorSpec(name="x", dtype="float32", shape=("batch", "width")),
    "y": TensorSpec(name="y", dtype="float32", shape=("batch", 3)),
}
SIGNATURE = Signature(inputs=(SPECS["x"],), outputs=(SPECS["y"],), batch_axes=dict.fromkeys(SPECS, 0))
NAME = "Two inputs"
"""Of the artifact: the systems make other names of it."""
GOOD, FAILING, REFUSED = 12, 3, 2
APART = 20.0
"""How far a server's latency may be from the client's, which measures more; another unit is 1000 times as much."""
PATIENCE_S = 40.0
"""Triton's quantiles are of the past seconds, and Ray exports now and then."""
NOT_APART = {"torchserve": GOOD + FAILING + REFUSED}
"""What is counted as answered where a failure, or what is refused, is counted as that too."""

Series = dict[str, float]


def feed(width: int) -> Feed:
    """A request."""
    return {"x": np.ones((1, width), np.float32)}


def scraped(name: str, ports: Ports) -> Series:
    """Every series of a server with its value, from whichever of its ports has them."""
    addresses = [f"127.0.0.1:{port}" for port in (ports.http, ports.metrics)]
    if name == "ray_serve":
        (group,) = json.loads(Path("/tmp/ray/prom_metrics_service_discovery.json").read_text())
        addresses = group["targets"]
    series: Series = {}
    for address in addresses:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            continue
        pairs = (line.rpartition(" ") for line in lines if line[:1] not in ("", "#"))
        series |= {each: float(value) for each, _, value in pairs}
    return series


def asked(endpoint: Endpoint) -> float:
    """Send requests that are answered, that fail in the model, and that are refused; return the mean latency in seconds."""
    times = []
    for request in encode(endpoint, [feed(3)] * GOOD):
        start = time.perf_counter()
        ask(endpoint, request)
        times.append(time.perf_counter() - start)
    for _ in range(FAILING):
        assert refusal(endpoint, encode_unchecked(endpoint, feed(2))).startswith("HTTP 5")
    for _ in range(REFUSED):
        assert refusal(endpoint, encode_unchecked(endpoint, {"x": feed(3)["x"][0]})) == ""
    return statistics.fmean(times)


def eventually(look: Callable[[], Series], done: Callable[[Series], bool]) -> Series:
    """Look until it is done, or there is no patience left."""
    deadline = time.monotonic() + PATIENCE_S
    while not done(series := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return series


def served(name: str, runtime: str, folder: Path) -> tuple[Exported, Series, Series, float]:
    """What rules are made of, what the server exports before and after requests, and the latency that the client saw."""
    system = make_system(name)
    environment = find_environment(system.environment)
    if environment is None:
        pytest.skip(f"mopt tools install {system.environment} has not run")
    # With one thread, OpenVINO 2026.4.1 repeats the answer before where it should fail.
    written, record, _ = services.write(name, runtime, folder, graph=GRAPH, golden=feed(3), threads=2, signature=SIGNATURE)
    exported = system.exported_by(written)
    assert exported is not None
    (folder / "scratch").mkdir()
    ports = free_ports()
    launch = system.launch(written, manifest=record, environment=environment, ports=ports, scratch=folder / "scratch")
    with running(launch):
        endpoint = connect(launch.url, model=launch.model, protocol=launch.protocol)  # type: ignore[arg-type]
        (request,) = encode(endpoint, [feed(3)])
        ask(endpoint, request)
        failed = exported.expression("failed", NAME)
        # Of a server of several processes each is heard of on its own.
        good = [each for field in ("answered", "inferences") if (each := exported.expression(field, NAME))]
        before = eventually(lambda: scraped(name, ports), lambda series: all(counted(each, series) >= 1 for each in good))
        latency = asked(endpoint)

        def done(series: Series) -> bool:
            return (
                all(counted(each, series) - counted(each, before) >= GOOD for each in good)
                and counted(failed, series) - counted(failed, before) >= FAILING
                and not unselected(exported, series)
            )

        return exported, before, eventually(lambda: scraped(name, ports), done), latency


CASES = [
    pytest.param(name, runtime, marks=[pytest.mark.slow, *([pytest.mark.servers] if name in OTHERS else [])])
    for name in (*LIGHT, *OTHERS)
    for runtime in RUNTIMES.get(name, ("onnxruntime",))
]


@pytest.mark.parametrize(("name", "runtime"), CASES)
def test_a_server_exports_what_its_rules_use(name: str, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    exported, before, after, latency = served(name, runtime, tmp_path)
    assert unselected(exported, after) == []

    def grown(expression: str) -> float:
        return counted(expression, after) - counted(expression, before)

    answered, failed = (grown(exported.expression(field, NAME)) for field in ("answered", "failed"))
    assert answered in ((NOT_APART[name],) if name in NOT_APART else (GOOD, GOOD + REFUSED))
    assert failed == FAILING
    if exported.inferences:
        assert GOOD <= grown(exported.expression("inferences", NAME)) <= GOOD + FAILING
    if exported.batch:
        assert ratio(exported.expression("batch", NAME), grown) == pytest.approx(1, abs=0.3)
    if exported.queue:
        assert 1e-3 / APART < ratio(exported.expression("queue", NAME), grown) / latency < 1
    if exported.p99:
        assert 1 / APART < mean_time(exported.expression("p99", NAME), after, grown) / latency < APART


@pytest.mark.parametrize("name", sorted(set(EXPORTED) - {*LIGHT, *OTHERS}))
def test_what_was_not_scraped_says_so(name: str) -> None:
    assert "not scraped" in EXPORTED[name].source


_FIELDS = ("answered", "failed", "inferences", "p99", "queue", "batch", "pending", "replicas")
_COUNTER = r"rate\(([\w:]+)\{([^}]*)\}\[5m\]\)"


def unselected(exported: Exported, series: Series) -> list[str]:
    """Selectors of the rules that select nothing."""
    text = " ".join(exported.expression(field, NAME) for field in _FIELDS)
    selectors = re.findall(r"([\w:]+)\{([^}]*)\}", text)
    return [f"{metric}{{{matchers}}}" for metric, matchers in selectors if not _selected(series, metric, matchers)]


def counted(expression: str, series: Series) -> float:
    """The counters of an expression ``sum(rate(counter{...}[5m]))``, added up."""
    selector = re.fullmatch(rf"sum\({_COUNTER}( and on \(job, instance\) [^)]*)?\)", expression)
    assert selector is not None, expression
    return sum(_selected(series, selector[1], selector[2]).values())


def ratio(expression: str, grown: Callable[[str], float]) -> float:
    """The value of ``sum(...) / sum(...)``, or of that and a factor after it."""
    above, below, *factor = expression.split(" / ")
    return grown(above) / grown(below) / (float(factor[0]) if factor else 1.0)


def mean_time(expression: str, series: Series, grown: Callable[[str], float]) -> float:
    """Seconds: the mean of the histogram that a quantile is of, or the quantile itself where the server has made it."""
    factor = float((re.search(r" / (1e\d)$", expression) or {1: "1"})[1])
    histogram = re.search(_COUNTER, expression)
    if histogram is None:
        summary = re.search(r"([\w:]+)\{([^}]*)\}", expression)
        assert summary is not None
        return max(_selected(series, summary[1], summary[2]).values()) / factor
    parts = (f"sum(rate({histogram[1].removesuffix('_bucket')}_{part}{{{histogram[2]}}}[5m]))" for part in ("sum", "count"))
    return ratio(" / ".join(parts), grown) / factor


def _selected(series: Series, metric: str, matchers: str) -> Series:
    """Select series as Prometheus does."""
    wanted = re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers)

    def fits(name: str) -> bool:
        found, _, labels = name.partition("{")
        values = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        return found == metric and all(
            (re.fullmatch(value, values.get(label, "")) is not None if "~" in kind else values.get(label, "") == value)
            != kind.startswith("!")
            for label, kind, value in wanted
        )

    return {name: value for name, value in series.items() if fits(name)}
