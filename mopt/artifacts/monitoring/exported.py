"""What each serving system tells Prometheus: one entry for each, from which the rules and the dashboard follow."""

from __future__ import annotations

__all__ = ["EXPORTED", "Exported"]

import dataclasses
import json
import re
import string
from collections.abc import Callable

from mopt.artifacts.serving._names import model_name, service_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """Expressions of PromQL about one model, over all of its replicas.

    ``$m`` stands for the matchers of the model, ``$name`` for its name on the server, and ``$w`` for the window. A counter goes
    through ``rate`` before it is summed, so that a server that starts again, and counts from 0, is no negative rate. Means are
    ratios of such sums, never means of means. What a system does not tell is empty, and the rules about it are left out.

    Attributes:
        source: Where the names were seen.
        start: How the server is started so that it exports them.
        named: Makes of the artifact's name the one that the server's files give it.
        matchers: What selects the model.
        answered: Requests per second that were answered.
        failed: Requests per second that failed for another reason than the client's.
        inferences: Samples per second; as ``answered`` where empty.
        p99: The 99th percentile of the latency in seconds.
        p99_note: What is to be known about it.
        queue: Seconds that a request waited, on average.
        batch: Samples of an execution, on average.
        pending: Requests that wait, now.
        replicas: Servers that have the model, now.
        silent: What it does not tell, for people.
    """

    source: str
    start: str
    named: Callable[[str], str]
    matchers: str
    answered: str
    failed: str = ""
    inferences: str = ""
    p99: str = ""
    p99_note: str = ""
    queue: str = ""
    batch: str = ""
    pending: str = ""
    replicas: str = ""
    silent: tuple[str, ...] = ()

    def expression(self, field: str, name: str, window: str = "5m") -> str:
        """Return one of the expressions for a model and a window; empty where the system does not tell."""
        quoted = json.dumps(self.named(name))[1:-1]
        matchers = string.Template(self.matchers).substitute(name=quoted)
        return string.Template(getattr(self, field)).substitute(m=matchers, name=quoted, w=window)

    @property
    def metrics(self) -> frozenset[str]:
        """The names of all metrics in its expressions."""
        expressions = " ".join(str(getattr(self, field.name)) for field in dataclasses.fields(self) if field.name in _FIELDS)
        return frozenset(re.findall(r"([A-Za-z_:][\w:]*)\{", expressions))


_FIELDS = frozenset(("answered", "failed", "inferences", "p99", "queue", "batch", "pending", "replicas"))

EXPORTED = {
    "triton": Exported(
        source="scraped from tritonserver 2.51 (container 24.10)",
        start="tritonserver ... --metrics-config=summary_latencies=true (metrics are at /metrics of port 8002)",
        named=model_name,
        matchers='model="$name"',
        answered="sum(rate(nv_inference_request_success{$m}[$w]))",
        failed='sum(rate(nv_inference_request_failure{$m,reason!="CANCELED"}[$w]))',
        inferences="sum(rate(nv_inference_count{$m}[$w]))",
        p99='max(nv_inference_request_summary_us{$m,quantile="0.99"}) / 1e6',
        p99_note=(
            "Triton exports quantiles of each server, which cannot be added up: this is the p99 of the slowest replica, never "
            "below that of all requests together."
        ),
        queue=(
            "sum(rate(nv_inference_queue_duration_us{$m}[$w])) / sum(rate(nv_inference_request_success{$m}[$w])) / 1e6"
        ),
        batch="sum(rate(nv_inference_count{$m}[$w])) / sum(rate(nv_inference_exec_count{$m}[$w]))",
        pending="sum(nv_inference_pending_request_count{$m})",
        replicas="count(count by (instance) (nv_inference_request_success{$m}))",
        silent=("requests that it refuses before they reach the model (HTTP 400) are in none of its counters",),
    ),
    "bentoml": Exported(
        source="scraped from BentoML 1.4.39",
        start="bentoml serve . (metrics are at /metrics of its port)",
        named=service_name,
        # The service that requests come to; the one that runs the model is behind it, and called NAME-model.
        matchers='service_name="$name",endpoint="/infer"',
        answered='sum(rate(bentoml_service_request_duration_seconds_count{$m,http_response_code!~"5.."}[$w]))',
        failed='sum(rate(bentoml_service_request_duration_seconds_count{$m,http_response_code=~"5.."}[$w]))',
        p99="histogram_quantile(0.99, sum by (le) (rate(bentoml_service_request_duration_seconds_bucket{$m}[$w])))",
        p99_note=(
            "Interpolated between the buckets, which end at 5, 10, 25, 50, 100, 250, 500 ms and so on unless the service has "
            "others."
        ),
        batch=(
            'sum(rate(bentoml_service_adaptive_batch_size_sum{service_name="$name-model"}[$w])) / '
            'sum(rate(bentoml_service_adaptive_batch_size_count{service_name="$name-model"}[$w]))'
        ),
        pending="sum(bentoml_service_request_in_progress{$m})",
        replicas="count(count by (instance) (bentoml_service_request_in_progress{$m}))",
        silent=("how long a request waits for its batch is not exported",),
    ),
    "mlserver": Exported(
        source="scraped from MLServer 1.7.1",
        start="mlserver start . (metrics are at /metrics of port 8082)",
        named=service_name,
        matchers='model="$name"',
        answered="sum(rate(model_infer_request_success_total{$m}[$w]))",
        failed="sum(rate(model_infer_request_failure_total{$m}[$w]))",
        p99=(
            'histogram_quantile(0.99, sum by (le) (rate(rest_server_request_duration_seconds_bucket{method="POST",'
            'path=~".*/infer"}[$w])))'
        ),
        p99_note=(
            "Of requests over HTTP, to whatever model of the server; interpolated between buckets at 5, 10, 25, 50, 75, 100, "
            "250, 500 ms and so on."
        ),
        replicas="count(count by (instance) (model_infer_request_success_total{$m}))",
        silent=(
            "the size of batches, the wait for one and pending requests are not exported",
            "requests that it refuses before they reach the model (HTTP 422) are in none of its counters",
        ),
    ),
}  # fmt: skip
"""By name of the serving system; those that are not here export nothing to Prometheus that rules can be made of."""
