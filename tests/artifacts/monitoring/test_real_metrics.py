"""Every metric that the rules use is one that the real server exports, started on the files and asked for answers."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mopt.artifacts.monitoring.exported import EXPORTED
from mopt.artifacts.serving._base import make_system
from mopt.loadgen.server_process import free_ports, running
from mopt.system.environments import find_environment
from tests import manifests
from tests.workflows import artifacts

_REQUESTS = 12
_NAME = "Twice 1"
"""Of the artifact: the systems make other names of it."""
_SLOW_SUMMARY_S = 2.5
"""Triton's summaries are of the past seconds."""


def scraped(ports: tuple[int, ...]) -> dict[str, float]:
    """Every series of a server with its value, from whichever of its ports has them."""
    for port in ports:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except (OSError, urllib.error.URLError):
            continue
        pairs = (line.rpartition(" ") for line in lines if line[:1] not in ("", "#"))
        if series := {name: float(value) for name, _, value in pairs}:
            return series
    raise AssertionError(f"no metrics at {ports}")


def asked(folder: Path, port: int, times: int) -> None:
    """Send the request of the README as often as that."""
    path = re.search(r"curl [^\n]*localhost:\d+(/\S+)", (folder / "README.md").read_text())
    assert path is not None
    for _ in range(times):
        body = (folder / "request.json").read_bytes()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path[1]}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()


def served(name: str, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """What a server exports before and after requests."""
    system = make_system(name)
    environment = find_environment(system.environment)
    if environment is None:
        pytest.skip(f"mopt tools install {system.environment} has not run")
    model, record = artifacts.doubling(folder / "model"), manifests.manifest(
        name=_NAME, signature=artifacts.signature(), runtime_fields={"threads": 1},
        batching=manifests.manifest().batching.model_copy(update={"max_batch": 4, "instances": 1, "threads": 1}),
    )  # fmt: skip
    (folder / "serving").mkdir()
    (folder / "scratch").mkdir()
    system.write(folder / "serving", manifest=record, model_folder=model.folder, golden=artifacts.feeds(1))
    ports = free_ports()
    launch = system.launch(
        folder / "serving", manifest=record, environment=environment, ports=ports, scratch=folder / "scratch"
    )
    with running(launch):
        asked(folder / "serving", ports.http, 1)
        before = scraped((ports.http, ports.metrics))
        asked(folder / "serving", ports.http, _REQUESTS)
        time.sleep(_SLOW_SUMMARY_S)
        return before, scraped((ports.http, ports.metrics))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.servers] if name == "mlserver" else []) for name in EXPORTED]
)
def test_a_server_exports_all_that_its_rules_use_with_the_labels_that_select_it(name: str, tmp_path: Path) -> None:
    exported = EXPORTED[name]
    before, after = served(name, tmp_path)
    assert exported.metrics <= {series.partition("{")[0] for series in after}
    for selector in re.findall(r"[\w:]+\{[^}]*\}", " ".join(exported.expression(field, _NAME) for field in _FIELDS)):
        metric, _, matchers = selector.partition("{")
        assert _selected(after, metric, matchers), f"{selector} selects nothing"
    assert _counted(exported.expression("answered", _NAME), after) - _counted(
        exported.expression("answered", _NAME), before
    ) == (_REQUESTS)


_FIELDS = ("answered", "inferences", "p99", "queue", "batch", "pending", "replicas")
"""What is there without a failure."""


def _counted(expression: str, series: dict[str, float]) -> float:
    """The counters of an expression ``sum(rate(counter{...}[5m]))``, added up."""
    selector = re.fullmatch(r"sum\(rate\(([\w:]+)\{(.*)\}\[5m\]\)\)", expression)
    assert selector is not None
    return sum(_selected(series, selector[1], selector[2]).values())


def _selected(series: dict[str, float], metric: str, matchers: str) -> dict[str, float]:
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
