"""Every metric that the rules use is one that the real server exports, after real requests."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mopt.artifacts.monitoring.exported import EXPORTED
from mopt.artifacts.serving.triton import Triton
from mopt.records.serving import Batching
from tests import manifests, servers
from tests.workflows import artifacts

pytestmark = pytest.mark.slow
_REQUESTS = 30


def scraped(url: str) -> dict[str, float]:
    """Every series of a server with its value."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {series: float(value) for line in lines if line[:1] not in ("", "#") for series, _, value in [line.rpartition(" ")]}


def names(series: dict[str, float]) -> set[str]:
    return {name.partition("{")[0] for name in series}


def post(url: str, body: object) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What tritonserver exports after requests for one sample each, and one that fails."""
    if why := servers.missing("triton"):
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("metrics")
    model = artifacts.doubling(folder / "model")
    batching = Batching(
        max_batch=4, queue_delay_us=0, instances=1, threads=1, replicas=1, predicted_p99_ms=None, utilization=None, rate=None,
        limited_by="",
    )  # fmt: skip
    manifest = manifests.manifest(name="double", signature=artifacts.signature(), batching=batching)
    (folder / "repository").mkdir()
    Triton().write(folder / "repository", manifest=manifest, model_folder=model.folder, golden=artifacts.feeds(1))
    flags = re.findall(r"--metrics-config (\S+)", EXPORTED["triton"].start)
    options = [f"--metrics-config={flag}" for flag in flags]
    with servers.triton(folder / "repository", options=options) as ports:
        url = f"http://127.0.0.1:{ports.http}/v2/models/double/infer"
        before = scraped(f"http://127.0.0.1:{ports.metrics}/metrics")
        for _ in range(_REQUESTS):
            post(url, {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
        with pytest.raises(urllib.error.HTTPError):
            post(url, {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})
        time.sleep(2.5)  # its summaries are of the past seconds
        after = scraped(f"http://127.0.0.1:{ports.metrics}/metrics")
    return after | {f"before {series}": value for series, value in before.items()}


def test_triton_exports_all_that_its_rules_use(triton: dict[str, float]) -> None:
    assert EXPORTED["triton"].metrics <= names(triton)


def test_tritons_series_have_the_labels_that_select_them(triton: dict[str, float]) -> None:
    for metric in EXPORTED["triton"].metrics:
        assert any(series.startswith(f"{metric}{{") and 'model="double"' in series for series in triton), metric
    quantile = [series for series in triton if series.startswith("nv_inference_request_summary_us{") and '"0.99"' in series]
    assert len(quantile) == 1
    assert 0 < triton[quantile[0]] < 10e6, "microseconds"
    assert any('reason="CANCELED"' in series for series in triton)


def test_tritons_counters_count_the_requests_that_were_answered(triton: dict[str, float]) -> None:
    for metric in ("nv_inference_request_success", "nv_inference_count"):
        series = f'{metric}{{model="double",version="1"}}'
        assert triton[series] - triton[f"before {series}"] == _REQUESTS
    waited = 'nv_inference_queue_duration_us{model="double",version="1"}'
    assert triton[waited] > triton[f"before {waited}"]


SERVICE = """
import bentoml
import numpy as np


@bentoml.service
class Double:
    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=4, max_latency_ms=500)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return 2 * x
"""


def test_bentoml_exports_all_that_its_rules_use(tmp_path: Path) -> None:
    if why := servers.missing("bentoml"):
        pytest.skip(why)
    (tmp_path / "service.py").write_text(SERVICE)
    with servers.bentoml(tmp_path, "service:Double") as ports:
        for _ in range(3):
            post(f"http://127.0.0.1:{ports.http}/predict", {"x": [[1.0, 2.0]]})
        series = scraped(f"http://127.0.0.1:{ports.http}/metrics")
    assert EXPORTED["bentoml"].metrics <= names(series)
    endpoints = {found[1] for name in series if (found := re.search(r'endpoint="([^"]*)"', name))}
    left_out = re.search(r'endpoint!~"(.*)"$', EXPORTED["bentoml"].matchers)
    assert left_out is not None
    assert {endpoint for endpoint in endpoints if not re.fullmatch(left_out[1], endpoint)} == {"/predict"}
