"""Recording and alerting rules for Prometheus, as YAML with a comment on each that says where its figures come from."""

from __future__ import annotations

__all__ = ["Group", "Rule", "drift_groups", "recorded", "render", "system_groups"]

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from mopt.artifacts.monitoring.thresholds import ERROR_BUDGET, LATENCY_BUDGET, Thresholds
from mopt.artifacts.serving._exported import Exported

BURN_RATES = (
    ("page", 14.4, "1h", "5m", "2m", "2 % of the budget of 30 days in an hour"),
    ("page", 6.0, "6h", "30m", "15m", "5 % of it in 6 hours"),
    ("ticket", 1.0, "3d", "6h", "1h", "10 % of it in 3 days"),
)
"""Severity, how many times as fast as allowed, long window, short window: Google's SRE Workbook, "Alerting on SLOs", table 5-8.
The short window ends the alert soon after the trouble has ended. After it comes how long it must last, so that the first
seconds of a new service, which are all that its windows hold, tell nobody."""
_WINDOWS = ("5m", "30m", "1h", "6h", "3d")
_SUSTAINED = "15m"
_FULL_BATCH = 0.95
_STALE_SECONDS = 2 * 86400


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A recording rule, or an alert where it has a severity.

    Attributes:
        name: Of the series, or of the alert.
        expression: In PromQL.
        comment: For who reads the file.
        severity: ``page`` or ``ticket``; empty for a recording rule.
        summary: What is wrong, for who is told; templates of Prometheus are filled in.
        action: What to do about it.
        wait: How long it must be so before anybody is told.
    """

    name: str
    expression: str
    comment: str = ""
    severity: str = ""
    summary: str = ""
    action: str = ""
    wait: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """Rules that are evaluated one after the other.

    Attributes:
        name: Unique in the file.
        model: Label of all recorded series.
        rules: In the order in which they need each other.
    """

    name: str
    model: str
    rules: Sequence[Rule]


def system_groups(exported: Exported, name: str, limits: Thresholds) -> list[Group]:
    """Return the rules for one model in one serving system."""
    records = list(_records(exported, name, limits))
    alerts = list(_alerts({rule.name for rule in records}, name, limits))
    return [Group(f"mopt {name} recording", name, records), Group(f"mopt {name} alerts", name, alerts)]


def recorded(groups: Sequence[Group]) -> set[str]:
    """Return the names of all recorded series."""
    return {rule.name for group in groups for rule in group.rules if not rule.severity}


# --- recording ----------------------------------------------------------------------------------------------------------


def _records(exported: Exported, name: str, limits: Thresholds) -> Iterator[Rule]:
    def told(field: str, window: str = "5m") -> str:
        return exported.expression(field, name, window, limits.instances)

    yield Rule(
        name="mopt:requests:rate5m", expression=told("answered"), comment="Throughput: requests per second, all replicas."
    )
    if exported.p99:
        yield Rule(name="mopt:latency_p99:seconds", expression=told("p99"), comment=exported.p99_note)
    if exported.failed:
        yield from _error_ratios(told)
    if exported.queue:
        yield Rule(name="mopt:queue_mean:seconds", expression=told("queue"), comment="How long a request waits, on average.")
    if exported.batch:
        yield Rule(name="mopt:batch_mean:samples", expression=told("batch"), comment="Samples of an execution, on average.")
    if exported.pending:
        yield Rule(name="mopt:pending:requests", expression=told("pending"), comment="Requests under way or waiting, now.")
    if exported.replicas:
        yield Rule(
            name="mopt:replicas:count", expression=f"{told('replicas')} or vector(0)", comment="Servers that have it, now."
        )
    if exported.replicas and limits.capacity is not None:
        rate = told("inferences") or told("answered")
        yield Rule(
            name="mopt:utilization:ratio",
            expression=f"{rate} / ({told('replicas')} * {limits.capacity:.6g})",
            comment=(
                f"Arrival rate over the capacity of all replicas; one does {limits.capacity:.4g} samples per second when it is "
                "never idle, as measured. Busy time is no such share: a server that batches is busy nearly always."
            ),
        )
    if exported.p99 and limits.p99_s is not None:
        yield from _slow_shares(limits.p99_s)


def _error_ratios(told: Callable[..., str]) -> Iterator[Rule]:
    for window in _WINDOWS:
        # A counter begins with its first request: without a failure there is none, and where all fail none of the others.
        failed, answered = (f"({told(field, window)} or vector(0))" for field in ("failed", "answered"))
        yield Rule(
            name=f"mopt:errors:ratio_rate{window}",
            expression=f"{failed} / ({failed} + {answered})",
            comment="Share of the requests that failed." if window == _WINDOWS[0] else "",
        )


def _slow_shares(limit: float) -> Iterator[Rule]:
    yield Rule(
        name="mopt:latency_over_limit:bool",
        expression=f"mopt:latency_p99:seconds{{{_MODEL}}} > bool {limit:.6g}",
        comment=f"Whether the p99 is above the {limit * 1e3:g} ms that were asked for.",
    )
    for window in _WINDOWS:
        yield Rule(
            name=f"mopt:latency_over_limit:ratio_{window}",
            expression=f"avg_over_time(mopt:latency_over_limit:bool{{{_MODEL}}}[{window}])",
            comment="Share of the time in which it was." if window == _WINDOWS[0] else "",
        )


_MODEL = "$model"
"""Stands for the matcher of the model in expressions over recorded series."""


# --- alerts -------------------------------------------------------------------------------------------------------------


def _alerts(series: set[str], name: str, limits: Thresholds) -> Iterator[Rule]:
    if "mopt:errors:ratio_rate5m" in series:
        yield from _burn_alerts(
            "MoptErrors", "mopt:errors:ratio_rate{}", ERROR_BUDGET, "of the requests fail",
            f"{1 - ERROR_BUDGET:.1%} of the requests are to be answered.",
        )  # fmt: skip
    if "mopt:latency_over_limit:bool" in series and limits.p99_s is not None:
        yield from _burn_alerts(
            "MoptLatency", "mopt:latency_over_limit:ratio_{}", LATENCY_BUDGET,
            f"of the time the p99 is above {limits.p99_s * 1e3:g} ms",
            f"The p99 is to be within {limits.p99_s * 1e3:g} ms in {1 - LATENCY_BUDGET:.0%} of the time, minute by minute.",
        )  # fmt: skip
    if "mopt:utilization:ratio" in series:
        yield Rule(
            name="MoptUtilization", severity="ticket", wait=_SUSTAINED,
            expression=f"mopt:utilization:ratio{{{_MODEL}}} > {limits.utilization:g}",
            comment=f"Planned with at most {limits.utilization:.0%} of the capacity; the queue grows without bound at 100 %.",
            summary="{{ $labels.model }} runs at {{ $value | humanizePercentage }} of its capacity",
            action="add replicas, or size it again with mopt size",
        )  # fmt: skip
    if "mopt:replicas:count" in series:
        yield from _replica_alerts(limits)
    if "mopt:queue_mean:seconds" in series and limits.queue_s is not None:
        yield Rule(
            name="MoptQueue", severity="ticket", wait=_SUSTAINED,
            expression=f"mopt:queue_mean:seconds{{{_MODEL}}} > {limits.queue_s:.6g}",
            comment="The p99 that was asked for, less that of the largest batch as measured: a longer wait breaks it.",
            summary="requests wait for {{ $value | humanizeDuration }} on average before {{ $labels.model }} runs them",
            action="add replicas; look at the batch size",
        )  # fmt: skip
    if "mopt:batch_mean:samples" in series and limits.max_batch > 1:
        yield Rule(
            name="MoptBatchesFull", severity="ticket", wait=_SUSTAINED,
            expression=f"mopt:batch_mean:samples{{{_MODEL}}} >= {_FULL_BATCH * limits.max_batch:g}",
            comment=f"Batches of up to {limits.max_batch}: when nearly all are full, there is nothing left to give.",
            summary="nearly all batches of {{ $labels.model }} are full: {{ $value | humanize }} samples on average",
            action="add replicas before the queue grows",
        )  # fmt: skip


def _burn_alerts(alert: str, series: str, budget: float, what: str, goal: str) -> Iterator[Rule]:
    for severity, factor, long, short, wait, spent in BURN_RATES:
        limit = f"{factor * budget:.6g}"
        yield Rule(
            name=f"{alert}Burn{long}", severity=severity, wait=wait,
            expression=f"{series.format(long)}{{{_MODEL}}} > {limit} and {series.format(short)}{{{_MODEL}}} > {limit}",
            comment=f"{goal} {factor:g} times as fast as allowed spends {spent}.",
            summary=f"{{{{ $labels.model }}}}: {{{{ $value | humanizePercentage }}}} {what}, over {long}",
            action="look at the dashboard: load, queue and replicas come first",
        )  # fmt: skip


def _replica_alerts(limits: Thresholds) -> Iterator[Rule]:
    figures = limits.provisioning
    minutes = max(5, -(-figures.startup.tolerated_s // 60))
    if figures.min_replicas:
        yield Rule(
            name="MoptTooFewReplicas", severity="page", wait=f"{minutes}m",
            expression=f"mopt:replicas:count{{{_MODEL}}} < {figures.min_replicas}",
            comment=(
                f"At least {figures.min_replicas}: a cold start takes {figures.start_s:.3g} s with the server's own, and up to "
                f"{figures.startup.tolerated_s} s before it counts as failed."
            ),
            summary="{{ $labels.model }} has {{ $value }} replicas",
            action="look at why servers do not become ready",
        )  # fmt: skip
    if limits.peak_rate is not None:
        yield Rule(
            name="MoptAboveMeasuredRate", severity="ticket", wait="5m",
            expression=f"mopt:requests:rate5m{{{_MODEL}}} / mopt:replicas:count{{{_MODEL}}} > {limits.peak_rate:.6g}",
            comment=f"A replica holds the p99 up to {limits.peak_rate:.4g} requests per second, as measured and simulated.",
            summary="each replica of {{ $labels.model }} gets {{ $value | humanize }} requests per second",
            action="add replicas: the p99 does not hold at this rate",
        )  # fmt: skip


def drift_groups(name: str) -> list[Group]:
    """Return the rules for what ``mopt drift --prometheus`` writes."""
    rules = [
        Rule(
            name="MoptDrift", severity="ticket",
            expression=f"max by (model, role, tensor, feature) (mopt_drift_found{{{_MODEL}}}) == 1",
            comment="The test holds over all looks: it needs no waiting, and no threshold of your own.",
            summary="{{ $labels.role }} {{ $labels.tensor }} of {{ $labels.model }} has drifted: {{ $labels.feature }}",
            action="mopt drift names what changed and by how much; build again with samples of today if it is to stay",
        ),
        Rule(
            name="MoptDriftNotLookedAt", severity="ticket", wait="1h",
            expression=f"time() - max by (model) (mopt_drift_last_look_timestamp_seconds{{{_MODEL}}}) > {_STALE_SECONDS}",
            comment="Requests are to be compared once a day; after two days without it somebody should know.",
            summary="the requests of {{ $labels.model }} were last compared {{ $value | humanizeDuration }} ago",
            action="look at the job that runs mopt drift",
        ),
    ]  # fmt: skip
    return [Group(f"mopt {name} drift", name, rules)]


# --- YAML ---------------------------------------------------------------------------------------------------------------


def render(groups: Sequence[Group], header: Sequence[str]) -> str:
    """Return a rule file of Prometheus; strings are JSON's, which YAML reads as they are."""
    lines = [*_comment(header, ""), "groups:"]
    for group in groups:
        lines += [f"  - name: {json.dumps(group.name)}", "    rules:"]
        for rule in group.rules:
            lines += [*_comment([rule.comment] if rule.comment else [], "      "), *_rule(rule, group.model)]
    return "\n".join(lines) + "\n"


def _rule(rule: Rule, model: str) -> Iterator[str]:
    matcher = f"model={json.dumps(model)}"
    yield f"      - {'alert' if rule.severity else 'record'}: {rule.name}"
    yield "        expr: >-"
    yield f"          {rule.expression.replace(_MODEL, matcher)}"
    if rule.wait:
        yield f"        for: {rule.wait}"
    if not rule.severity:
        yield from _mapping("labels", {"model": model})
        return
    yield from _mapping("labels", {"severity": rule.severity})
    yield from _mapping("annotations", {"summary": rule.summary, "action": rule.action})


def _mapping(key: str, values: Mapping[str, str]) -> Iterator[str]:
    yield f"        {key}:"
    yield from (f"          {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


def _comment(texts: Sequence[str], indent: str) -> Iterator[str]:
    return (f"{indent}# {''.join(char if char.isprintable() else ' ' for char in text)}" for text in texts)
