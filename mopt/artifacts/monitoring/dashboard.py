"""A dashboard for Grafana over the series that the rules record: the same for every serving system."""

from __future__ import annotations

__all__ = ["dashboard"]

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

from mopt.artifacts.monitoring.rules import BURN_RATES
from mopt.artifacts.monitoring.thresholds import ERROR_BUDGET, LATENCY_BUDGET, Thresholds

_SCHEMA_VERSION = 39
"""Of the JSON, as Grafana 10.1 and later write it; newer ones migrate it when they load it."""
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_HEIGHT = {"stat": 4, "timeseries": 8, "table": 8}


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One panel.

    Attributes:
        title: Above it.
        kind: Of Grafana's panels.
        series: Expressions with their legends; ``$model`` stands for the matcher.
        unit: Grafana's name of it.
        limit: Where it turns red; None where nothing was asked for or measured.
        about: What is to be known about it.
        width: Of 24 columns.
    """

    title: str
    kind: str
    series: Sequence[tuple[str, str]]
    unit: str
    limit: float | None = None
    about: str = ""
    width: int = 12


def dashboard(name: str, system: str, series: Collection[str], limits: Thresholds) -> dict[str, Any]:
    """Return the JSON of a dashboard.

    Args:
        name: Of the model.
        system: Name of the serving system.
        series: That the rules record; a panel whose series is not among them is left out.
        limits: Lines in the charts.
    """
    rows = [(title, [panel for panel in panels if _is_told(panel, series)]) for title, panels in _rows(limits)]
    return {
        "title": f"{name} on {system}",
        "uid": None,
        "tags": ["mopt", system],
        "description": "Written by mopt; the lines are what was asked for, measured or planned when the model was built.",
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]},
        "annotations": {"list": []},
        "panels": _placed([(title, panels) for title, panels in rows if panels], f"model={json.dumps(name)}"),
    }


def _is_told(panel: _Panel, series: Collection[str]) -> bool:
    return all(expression.partition("{")[0] in series or "mopt_drift" in expression for expression, _ in panel.series)


def _rows(limits: Thresholds) -> list[tuple[str, list[_Panel]]]:
    figures = limits.provisioning
    rate = figures.rate_per_replica
    planned = f"; {rate:.4g} of them for each replica" if rate is not None else ""
    now = [
        _Panel("p99", "stat", [("mopt:latency_p99:seconds{$model}", "")], "s", limits.p99_s, width=6),
        _Panel("Throughput", "stat", [("mopt:requests:rate5m{$model}", "")], "reqps", width=6),
        _Panel("Utilization", "stat", [("mopt:utilization:ratio{$model}", "")], "percentunit", limits.utilization, width=6),
        _Panel("Errors", "stat", [("mopt:errors:ratio_rate5m{$model}", "")], "percentunit", ERROR_BUDGET, width=6),
    ]
    course = [
        _Panel("p99 of the latency", "timeseries", [("mopt:latency_p99:seconds{$model}", "p99")], "s", limits.p99_s),
        _Panel("Requests per second", "timeseries", [("mopt:requests:rate5m{$model}", "requests")], "reqps",
               about=f"All replicas together{planned}."),
        _Panel("Utilization", "timeseries", [("mopt:utilization:ratio{$model}", "of the capacity")], "percentunit",
               limits.utilization, "Arrival rate over the measured capacity of all replicas."),
        _Panel("Share of failed requests", "timeseries", [("mopt:errors:ratio_rate5m{$model}", "failed")], "percentunit",
               ERROR_BUDGET),
        _Panel("Mean time in the queue", "timeseries", [("mopt:queue_mean:seconds{$model}", "queue")], "s", limits.queue_s,
               "The line is what a full batch leaves of the p99 that was asked for."),
        _Panel("Mean batch size", "timeseries", [("mopt:batch_mean:samples{$model}", "samples")], "none",
               float(limits.max_batch) if limits.max_batch > 1 else None, "The line is the largest batch."),
        _Panel("Pending requests", "timeseries", [("mopt:pending:requests{$model}", "pending")], "none"),
        _Panel("Replicas", "timeseries", [("mopt:replicas:count{$model}", "replicas")], "none",
               about=f"Planned: {figures.replicas}; at least {figures.min_replicas}."),
    ]  # fmt: skip
    windows = [long for _, _, long, _, _, _ in BURN_RATES]
    budget = [
        _Panel("Errors: how fast the budget burns", "timeseries",
               [(f"mopt:errors:ratio_rate{window}{{$model}} / {ERROR_BUDGET:g}", window) for window in windows], "none", 1.0,
               "1 spends the budget of 30 days in 30 days."),
        _Panel("Latency: how fast the budget burns", "timeseries",
               [(f"mopt:latency_over_limit:ratio_{window}{{$model}} / {LATENCY_BUDGET:g}", window) for window in windows],
               "none", 1.0),
    ]  # fmt: skip
    drift = [
        _Panel("Evidence of drift", "timeseries", [("mopt_drift_evidence{$model}", "{{role}} {{tensor}} {{feature}}")],
               "percentunit", 1.0, "As a share of what is needed, over all looks of mopt drift; it stays found."),
        _Panel("Population stability index", "timeseries", [("mopt_drift_psi{$model}", "{{role}} {{tensor}} {{feature}}")],
               "none", 0.25),
    ]  # fmt: skip
    return [("Now", now), ("The last hours", course), ("Budgets", budget), ("Drift of inputs and outputs", drift)]


def _placed(rows: Sequence[tuple[str, list[_Panel]]], matcher: str) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows:
        placed.append(
            {
                "type": "row", "title": title, "id": len(placed) + 1, "collapsed": False, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1},
            }
        )  # fmt: skip
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + _HEIGHT[panel.kind]
            position = {"x": x, "y": y, "w": panel.width, "h": _HEIGHT[panel.kind]}
            placed.append({**_json(panel, matcher), "id": len(placed) + 1, "gridPos": position})
            x += panel.width
        y += _HEIGHT[panels[-1].kind]
    return placed


def _json(panel: _Panel, matcher: str) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    custom = {"thresholdsStyle": {"mode": "line"}, "lineWidth": 2, "fillOpacity": 8} if panel.kind == "timeseries" else {}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + index), "expr": expression.replace("$model", matcher), "legendFormat": legend,
                "datasource": _DATASOURCE,
            }
            for index, (expression, legend) in enumerate(panel.series)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit, "min": 0, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
    }  # fmt: skip
