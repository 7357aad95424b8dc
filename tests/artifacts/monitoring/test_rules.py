"""Rules as Prometheus evaluates them: several replicas, counters that begin again, alerts that fire and that do not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from mopt.artifacts.monitoring.rules import drift_groups, recorded, render, system_groups
from mopt.artifacts.monitoring.thresholds import Thresholds, thresholds
from tests.artifacts.monitoring.prometheus import EXPORTED, check, needs_promtool, run_rules
from tests.artifacts.serving.test_provisioning import built
from tests.manifests import HOSTILE

LIMITS: Thresholds = dataclasses.replace(
    thresholds(built(None, {"p99": 100.0})), capacity=100.0, queue_s=0.02, peak_rate=80.0, p99_s=0.1
)  # fmt: skip
MINUTES = 60 * 3


def written(folder: Path, system: str = "triton", limits: Thresholds = LIMITS, name: str = "m") -> Path:
    path = folder / "rules.yml"
    path.write_text(render(system_groups(EXPORTED[system], name, limits), ["header"]))
    return path


def triton(metric: str, values: str, **labels: str) -> dict[str, str]:
    """One series of Triton's for each of two replicas."""
    extra = "".join(f',{name}="{value}"' for name, value in labels.items())
    return {f'nv_inference_{metric}{{model="m",version="1",instance="{host}"{extra}}}': values for host in ("a:8002", "b:8002")}


def traffic(
    per_minute: float, *, failed: float = 0.0, p99_us: float = 50_000, queue_us: float = 5_000, batch: float = 4.0
) -> dict[str, str]:
    """What two replicas export of steady traffic, each of which gets ``per_minute`` requests."""
    return {
        **triton("request_success", f"0+{per_minute}x{MINUTES}"),
        **triton("request_failure", f"0+{failed}x{MINUTES}", reason="BACKEND"),
        **triton("request_failure", f"0+1000x{MINUTES}", reason="CANCELED"),
        **triton("count", f"0+{per_minute}x{MINUTES}"),
        **triton("exec_count", f"0+{per_minute / batch}x{MINUTES}"),
        **triton("queue_duration_us", f"0+{queue_us * per_minute}x{MINUTES}"),
        **triton("request_summary_us", f"{p99_us}x{MINUTES}", quantile="0.99"),
        **triton("pending_request_count", f"3x{MINUTES}"),
    }


ALERTS = (
    "MoptErrorsBurn1h", "MoptErrorsBurn6h", "MoptErrorsBurn3d", "MoptLatencyBurn1h", "MoptLatencyBurn6h", "MoptLatencyBurn3d",
    "MoptUtilization", "MoptTooFewReplicas", "MoptAboveMeasuredRate", "MoptQueue", "MoptBatchesFull",
)  # fmt: skip


def but(*firing: str) -> list[str]:
    return [name for name in ALERTS if name not in firing]


@needs_promtool
@pytest.mark.parametrize("system", EXPORTED)
@pytest.mark.parametrize("name", ["m", HOSTILE], ids=["plain", "hostile"])
def test_promtool_takes_the_rules_of_every_system(system: str, name: str, tmp_path: Path) -> None:
    check(written(tmp_path, system, name=name))
    drift = tmp_path / "drift.yml"
    drift.write_text(render(drift_groups(name), [name]))
    check(drift)


def test_every_alert_is_known_here_and_says_what_to_do() -> None:
    rules = [rule for group in system_groups(EXPORTED["triton"], "m", LIMITS) for rule in group.rules]
    assert {rule.name for rule in rules if rule.severity} == set(ALERTS)
    assert all(rule.summary and rule.action and rule.comment for rule in rules if rule.severity)
    assert all(rule.severity in ("", "page", "ticket") for rule in rules)


@needs_promtool
def test_two_replicas_are_one_service(tmp_path: Path) -> None:
    run_rules(
        tmp_path, written(tmp_path), traffic(1200), at="1h", quiet=ALERTS,
        values={
            "mopt:requests:rate5m": 40, "mopt:latency_p99:seconds": 0.05, "mopt:errors:ratio_rate5m": 0,
            "mopt:queue_mean:seconds": 0.005, "mopt:batch_mean:samples": 4, "mopt:pending:requests": 6,
            "mopt:replicas:count": 2, "mopt:utilization:ratio": 0.2,
        },
    )  # fmt: skip


@needs_promtool
def test_a_server_that_counts_from_0_again_is_no_negative_rate_and_no_burst(tmp_path: Path) -> None:
    series = traffic(1200)
    series['nv_inference_request_success{model="m",version="1",instance="b:8002"}'] = f"0+1200x59 0+1200x{MINUTES - 60}"
    run_rules(tmp_path, written(tmp_path), series, at="1h2m", values={"mopt:requests:rate5m > bool 35": 1}, quiet=ALERTS)
    run_rules(tmp_path, written(tmp_path), series, at="1h2m", values={"mopt:requests:rate5m <= bool 40": 1})


@needs_promtool
@pytest.mark.parametrize(
    ("change", "firing"),
    [
        ({"failed": 40.0}, ("MoptErrorsBurn1h", "MoptErrorsBurn6h", "MoptErrorsBurn3d")),
        ({"failed": 12.0}, ("MoptErrorsBurn6h", "MoptErrorsBurn3d")),
        ({"failed": 3.0}, ("MoptErrorsBurn3d",)),
        ({"failed": 0.6}, ()),
        ({"p99_us": 150_000}, ("MoptLatencyBurn1h", "MoptLatencyBurn6h", "MoptLatencyBurn3d")),
        ({"p99_us": 99_000}, ()),
        ({"queue_us": 25_000}, ("MoptQueue",)),
        ({"batch": 7.8}, ("MoptBatchesFull",)),
    ],
    ids=[
        "3 % fail", "1 % fail", "0.25 % fail", "0.05 % fail", "too slow", "just fast enough", "long queue", "full batches",
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_and_nothing_else(change: dict[str, float], firing: tuple[str, ...], tmp_path: Path) -> None:
    run_rules(tmp_path, written(tmp_path), traffic(1200, **change), at="70m", firing=firing, quiet=but(*firing))


@needs_promtool
def test_two_models_in_one_prometheus_are_told_apart(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(render([group for name in ("m", "n") for group in system_groups(EXPORTED["triton"], name, LIMITS)], []))
    slow = {name.replace('model="m"', 'model="n"'): values for name, values in traffic(600, p99_us=150_000).items()}
    run_rules(
        tmp_path, rules, {**traffic(1200), **slow}, at="70m", firing=("MoptLatencyBurn1h",),
        values={
            'mopt:requests:rate5m{model="m"}': 40, 'mopt:requests:rate5m{model="n"}': 20,
            'mopt:latency_over_limit:ratio_5m{model="m"}': 0, 'mopt:latency_over_limit:ratio_5m{model="n"}': 1,
        },
    )  # fmt: skip


@pytest.mark.parametrize("system", EXPORTED)
def test_what_is_made_of_recorded_series_is_of_one_model(system: str) -> None:
    for group in system_groups(EXPORTED[system], "m", LIMITS):
        for rule in group.rules:
            for series in re.findall(r"mopt:[\w:]+(?:\{\$model\})?", rule.expression):
                assert series.endswith("{$model}"), rule.expression


@needs_promtool
def test_a_service_that_has_never_answered_fails_as_well(tmp_path: Path) -> None:
    series = {name: values for name, values in traffic(1200, failed=40).items() if "request_success" not in name}
    firing = ("MoptErrorsBurn1h", "MoptErrorsBurn6h", "MoptErrorsBurn3d")
    run_rules(tmp_path, written(tmp_path), series, at="70m", firing=firing, values={"mopt:errors:ratio_rate5m": 1})


@needs_promtool
def test_a_metric_that_names_no_model_is_taken_of_the_servers_that_have_it(tmp_path: Path) -> None:
    series: dict[str, str] = {}
    for host, model, failures in (("a:8082", "m", 12), ("b:8082", "m", 6), ("c:8082", "other", 600)):
        labels = f'model_name="{model}",model_version="default",hostname="h",job="torchserve",instance="{host}"'
        series[f"ts_inference_requests_total{{{labels}}}"] = "0+1200x60"
        series[f"ts_queue_latency_microseconds{{{labels}}}"] = "0+6000000x60"
        series[f'Requests5XX{{Level="Host",Hostname="h",job="torchserve",instance="{host}"}}'] = f"0+{failures}x60"
    rules = written(tmp_path, "torchserve")
    run_rules(
        tmp_path, rules, series, at="30m",
        values={
            "mopt:requests:rate5m": 40, "mopt:errors:ratio_rate5m": 0.3 / 40.3, "mopt:queue_mean:seconds": 0.005,
            "mopt:replicas:count": 2,
        },
    )  # fmt: skip


@needs_promtool
def test_ray_counts_instances_and_two_of_them_are_a_server(tmp_path: Path) -> None:
    series = {
        f'ray_serve_replica_processing_queries{{application="m",replica="{replica}",instance="{host}"}}': "1x60"
        for replica, host in (("r1", "a:1"), ("r2", "a:1"), ("r3", "b:1"), ("r4", "b:1"))
    }
    series['ray_serve_deployment_queued_queries{application="m",instance="a:1"}'] = "3x60"
    rules = written(tmp_path, "ray_serve", dataclasses.replace(LIMITS, instances=2))
    run_rules(tmp_path, rules, series, at="30m", values={"mopt:replicas:count": 2, "mopt:pending:requests": 7})


@needs_promtool
def test_more_than_a_replica_holds_is_told(tmp_path: Path) -> None:
    series = traffic(60 * 85)
    run_rules(
        tmp_path, written(tmp_path), series, at="1h", values={"mopt:utilization:ratio": 0.85},
        firing=("MoptUtilization", "MoptAboveMeasuredRate"), quiet=but("MoptUtilization", "MoptAboveMeasuredRate"),
    )  # fmt: skip


@needs_promtool
def test_a_short_burst_of_errors_ends_its_alert_when_it_has_ended(tmp_path: Path) -> None:
    series = traffic(1200)
    for host in ("a:8002", "b:8002"):
        name = f'nv_inference_request_failure{{model="m",version="1",instance="{host}",reason="BACKEND"}}'
        series[name] = f"0x60 0+1200x9 12000x{MINUTES - 70}"
    rules = written(tmp_path)
    run_rules(tmp_path, rules, series, at="1h9m", firing=("MoptErrorsBurn1h",))
    run_rules(
        tmp_path, rules, series, at="1h20m", quiet=("MoptErrorsBurn1h",), values={"mopt:errors:ratio_rate1h > bool 0.0144": 1}
    )


@needs_promtool
def test_the_first_minute_of_a_new_service_tells_nobody(tmp_path: Path) -> None:
    run_rules(tmp_path, written(tmp_path), traffic(1200, failed=600, p99_us=900_000), at="1m", quiet=ALERTS)


@needs_promtool
def test_a_service_that_is_gone_is_told_and_one_replica_of_two_as_well(tmp_path: Path) -> None:
    rules = written(tmp_path)
    run_rules(tmp_path, rules, {}, at="30m", firing=("MoptTooFewReplicas",), values={"mopt:replicas:count": 0})
    one = {name: value for name, value in traffic(1200).items() if "a:8002" in name}
    run_rules(tmp_path, rules, one, at="30m", firing=("MoptTooFewReplicas",), quiet=but("MoptTooFewReplicas"))


@needs_promtool
def test_without_traffic_nothing_is_wrong(tmp_path: Path) -> None:
    run_rules(tmp_path, written(tmp_path), traffic(0), at="70m", quiet=ALERTS, values={"mopt:requests:rate5m": 0})


@needs_promtool
def test_a_histogram_is_added_up_over_replicas_before_the_quantile_is_taken(tmp_path: Path) -> None:
    def bento(metric: str, values: str, host: str, **labels: str) -> dict[str, str]:
        extra = "".join(f',{name}="{value}"' for name, value in labels.items())
        return {f'bentoml_service_{metric}{{service_name="m",endpoint="/infer",instance="{host}"{extra}}}': values}

    series: dict[str, str] = {}
    for host, slow in (("a:3000", 0), ("b:3000", 40)):
        for bound, below in (("0.05", 100 - slow), ("0.1", 100), ("+Inf", 100)):
            series |= bento("request_duration_seconds_bucket", f"0+{below}x60", host, le=bound, http_response_code="200")
        series |= bento("request_duration_seconds_count", "0+99x60", host, http_response_code="200")
        series |= bento("request_duration_seconds_count", "0+1x60", host, http_response_code="500")
        series |= bento("request_duration_seconds_count", "0+50x60", host, http_response_code="404")
        series |= bento("request_in_progress", "2x60", host)
    series |= {name.replace("/infer", "/readyz"): "0+900x60" for name in series if "_count" in name and '"200"' in name}
    run_rules(
        tmp_path, written(tmp_path, "bentoml"), series, at="30m",
        values={
            # 40 of 200 lie between 0.05 and 0.1: the 198th is 38/40 of the way.
            "mopt:latency_p99:seconds": 0.0975, "mopt:replicas:count": 2, "mopt:pending:requests": 4,
            "mopt:errors:ratio_rate5m": 2 / 300,
        },
    )  # fmt: skip


def test_what_a_system_does_not_tell_has_no_rule() -> None:
    series = recorded(system_groups(EXPORTED["bentoml"], "m", LIMITS))
    assert "mopt:queue_mean:seconds" not in series
    alerts = {rule.name for group in system_groups(EXPORTED["bentoml"], "m", LIMITS) for rule in group.rules if rule.severity}
    assert "MoptQueue" not in alerts
    unasked = dataclasses.replace(LIMITS, p99_s=None, capacity=None, peak_rate=None, queue_s=None, max_batch=1)
    left = {rule.name for group in system_groups(EXPORTED["triton"], "m", unasked) for rule in group.rules if rule.severity}
    assert left == {"MoptErrorsBurn1h", "MoptErrorsBurn6h", "MoptErrorsBurn3d", "MoptTooFewReplicas"}


@needs_promtool
def test_drift_is_told_by_what_has_drifted_and_a_look_that_is_missing_too(tmp_path: Path) -> None:
    rules = tmp_path / "drift.yml"
    rules.write_text(render(drift_groups("m"), []))
    labels = 'model="m",role="input",tensor="x"'
    series = {
        f'mopt_drift_found{{{labels},feature="mean"}}': "0x10 1x3500",
        f'mopt_drift_found{{{labels},feature="least"}}': "0x3500",
        'mopt_drift_last_look_timestamp_seconds{model="m"}': "600x3500",
    }
    drift = 'count(ALERTS{alertname="MoptDrift",feature="mean",alertstate="firing"})'
    run_rules(tmp_path, rules, series, at="5m", quiet=("MoptDrift", "MoptDriftNotLookedAt"))
    run_rules(tmp_path, rules, series, at="20m", values={drift: 1}, firing=("MoptDrift",), quiet=("MoptDriftNotLookedAt",))
    run_rules(tmp_path, rules, series, at="50h", firing=("MoptDriftNotLookedAt",))
