"""The hardware sizing report: a table for the terminal, and one self-contained HTML page with charts."""

from __future__ import annotations

__all__ = ["COLUMNS", "facts", "is_sizing_report", "render_sizing", "rows", "sentences"]

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopt.records import units as q
from mopt.records.sizing import Curve, Range, Sizing, SizingOption
from mopt.reports.charts import COLOURS, clean, draw, plain_log_ticks
from mopt.reports.rendering import NONE, Fact, environment

_GENERATOR = '<meta name="generator" content="mopt size">'
"""In the head of the page, by which a report that mopt wrote is known again."""
_ROLES = {"chosen": ("chosen", "-", 2.4), "gpu": ("bad", (0, (5, 3)), 1.4)}
COLUMNS = {
    "target": "Machine",
    "precision": "Precision",
    "origin": "Figures",
    "replicas": "Machines",
    "settings": "Instances x threads",
    "p99": "p99",
    "utilization": "Utilization",
    "memory": "Memory",
    "monthly": "A month",
    "million": "A million",
    "energy": "Energy",
    "note": "Decided by",
}
"""Columns of the table with their headings."""


def rows(sizing: Sizing) -> list[dict[str, str]]:
    """Return the table: the recommended line first, then from cheap to dear, then what is excluded.

    Machines that have no figures for the same reason share one line.
    """
    order = sorted(range(len(sizing.options)), key=lambda index: _order(sizing, index))
    lines = []
    for _, group in itertools.groupby(order, lambda index: _unanswered(sizing.options[index]) or index):
        indices = list(group)
        row = _row(sizing.options[indices[0]], indices[0] == sizing.recommended)
        lines.append(row | _shared_names([sizing.options[index] for index in indices]) if len(indices) > 1 else row)
    return lines


def _unanswered(option: SizingOption) -> str:
    """Why it has no figures; empty for what has some."""
    return option.excluded if option.replicas is None else ""


def _shared_names(options: Sequence[SizingOption]) -> dict[str, str]:
    targets = {option.target for option in options}
    precisions = dict.fromkeys(option.precision for option in options)
    return {
        "target": q.count(len(targets), "machine") if len(targets) > 1 else options[0].target,
        "precision": ", ".join(precisions),
    }


def _order(sizing: Sizing, index: int) -> tuple[bool, bool, float, float, str]:
    option = sizing.options[index]
    monthly = option.monthly_usd.high if option.monthly_usd else float("inf")
    machines = option.replicas.high if option.replicas else float("inf")
    return index != sizing.recommended, bool(option.excluded), monthly, machines, _unanswered(option)


def _row(option: SizingOption, recommended: bool) -> dict[str, str]:
    settings = NONE
    if option.max_batch is not None:
        delay = f", delay {q.milliseconds(option.queue_delay_us / 1e3)}" if option.queue_delay_us else ""
        settings = f"{option.instances} x {option.threads}, batch {option.max_batch}{delay}"
    return {
        "target": option.target,
        "precision": option.precision,
        "origin": "measured" if option.origin == "measured" else "estimate",
        "replicas": _span(option.replicas, lambda value: "many" if value > 1e6 else f"{value:.0f}"),
        "settings": settings,
        "p99": _span(option.p99_ms, q.milliseconds),
        "utilization": f"{option.utilization:.0%}" if option.utilization is not None else NONE,
        "memory": q.memory(option.memory_bytes) if option.memory_bytes else NONE,
        "monthly": _span(option.monthly_usd, lambda value: "many" if value > 1e9 else f"${value:,.0f}"),
        "million": _span(option.per_million_usd, lambda value: "many" if value > 1e6 else f"${q.digits(value)}"),
        "energy": f"{q.digits(option.kwh_month)} kWh" if option.kwh_month else NONE,
        "note": option.excluded or ("recommended: " if recommended else "") + option.limited_by,
        "answered": "" if option.replicas is None else "yes",
        "state": "chosen" if recommended else "rejected" if option.excluded else "",
    }


def _span(span: Range | None, write: Any) -> str:
    if span is None:
        return NONE
    value, low, high = write(span.value), write(span.low), write(span.high)
    if low == high:
        return str(value)
    unit = low.rpartition(" ")[2]
    return f"{value} ({low.removesuffix(f' {unit}') if high.endswith(f' {unit}') else low} to {high})"


def sentences(sizing: Sizing) -> list[str]:
    """Say the answer: the machine, why, whether a GPU can pay, how to scale, and what has no answer."""
    lines = []
    if sizing.recommended is None:
        lines.append(f"No recommendation: {sizing.why}.")
    else:
        option = sizing.options[sizing.recommended]
        assert option.replicas is not None
        spare_replicas = f", {sizing.spare_replicas} of them spare" if sizing.spare_replicas else ""
        money = f", {_span(option.monthly_usd, lambda value: f'${value:,.0f}')} a month" if option.monthly_usd else ""
        lines.append(
            f"Recommended: {_span(option.replicas, lambda value: f'{value:.0f}')} x {option.target}{spare_replicas}, with "
            f"{option.precision}, batches up to {option.max_batch}, {q.count(option.instances or 1, 'instance')} of "
            f"{q.count(option.threads or 1, 'thread')}{money}."
        )
        lines.append(f"Why: {sizing.why}.")
        if option.origin == "projected":
            lines.append("That machine was not measured: its figures are estimates with a range. Run mopt bench on one first.")
    lines.append(sizing.gpu.sentence)
    if sizing.autoscaling is not None:
        scaling = sizing.autoscaling
        lines.append(
            f"Autoscaling: at least {scaling.minimum}, one more from {q.digits(scaling.threshold)} {scaling.unit} each "
            f"({scaling.metric}); {scaling.why}."
        )
    lines += [
        f"No answer for {row['precision']} on {row['target']}: {row['note']}." for row in rows(sizing) if not row["answered"]
    ]
    return [*lines, *(f"Note: {warning}." for warning in sizing.warnings)]


def facts(sizing: Sizing) -> list[Fact]:
    """Return what was asked."""
    limit = q.milliseconds(sizing.p99_ms) if sizing.p99_ms is not None else "none"
    requirements = [
        Fact("peak rate", f"{q.digits(sizing.rate)} requests per second, {sizing.arrivals}"),
        Fact("mean rate", f"{q.digits(sizing.mean_rate)} requests per second"),
        Fact("limit for the p99", limit),
        Fact("highest utilization", f"{sizing.max_utilization:.0%} of the capacity"),
        Fact("spare machines", str(sizing.spare_replicas)),
        Fact("measured on", sizing.measured_on),
    ]
    return requirements + ([Fact("budget", f"${sizing.budget_usd:,.0f} a month")] if sizing.budget_usd is not None else [])


def render_sizing(sizing: Sizing) -> str:
    """Return the report as one page that loads nothing and runs nothing."""
    page = {
        "sizing": sizing,
        "generator": _GENERATOR,
        "sentences": sentences(sizing),
        "facts": facts(sizing),
        "columns": COLUMNS,
        "rows": rows(sizing),
        "cost_chart": _cost_chart(sizing),
        "p99_chart": _p99_chart(sizing),
        "curves": [(curve.name, _style(curve, index)[0]) for index, curve in enumerate(sizing.cost)],
    }
    return environment().get_template("sizing.html.j2").render(page)


def is_sizing_report(path: Path) -> bool:
    """Whether a file is a page that :func:`render_sizing` made."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as page:
        return _GENERATOR in page.read(1000)


def _style(curve: Curve, index: int) -> tuple[str, Any, float]:
    return _ROLES.get(curve.role, (f"other-{min(index, 4)}", "-", 1.4))


def _cost_chart(sizing: Sizing) -> str:
    if not sizing.cost:
        return ""

    def paint(axes: Any) -> None:
        for index, curve in reversed(list(enumerate(sizing.cost))):
            role, dash, width = _style(curve, index)
            axes.step(curve.rates, curve.values, where="post", color=COLOURS[role], linestyle=dash, linewidth=width)
        _mark_rate(axes, sizing)
        if sizing.gpu.pays_from and sizing.cost[0].rates[0] < sizing.gpu.pays_from < sizing.cost[0].rates[-1]:
            axes.axvline(sizing.gpu.pays_from, color=COLOURS["bad"], linewidth=1, linestyle=(0, (2, 3)))
            _text(axes, sizing.gpu.pays_from, "a GPU may pay", top=0.84)
        axes.set_yscale("log")
        _rate_axis(axes, sizing.cost)
        plain_log_ticks(axes)
        axes.set_ylabel("USD a month")

    return draw("cost", "Cost by rate", (9.6, 4.4), paint)


def _p99_chart(sizing: Sizing) -> str:
    if not sizing.p99:
        return ""

    def paint(axes: Any) -> None:
        for curve in sizing.p99:
            axes.plot(curve.rates, curve.values, color=COLOURS["chosen"], linewidth=2.4, marker="o", markersize=4)
            axes.fill_between(curve.rates, curve.low, curve.high, color=COLOURS["chosen"], alpha=0.14, linewidth=0)
        if sizing.p99_ms is not None:
            axes.axhline(sizing.p99_ms, color=COLOURS["bad"], linewidth=1.2, linestyle=(0, (5, 3)))
        _mark_rate(axes, sizing)
        axes.set_yscale("log")
        axes.minorticks_off()
        plain_log_ticks(axes)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: q.digits(value))
        axes.set_xlabel("requests per second")
        axes.set_ylabel("p99, ms (band from p50 to p99.9)")

    return draw("p99", "p99 by rate", (9.6, 3.8), paint)


def _mark_rate(axes: Any, sizing: Sizing) -> None:
    axes.axvline(sizing.rate, color=COLOURS["faint"], linewidth=1)
    _text(axes, sizing.rate, "asked for", top=0.96)


def _text(axes: Any, x: float, words: str, top: float) -> None:
    axes.text(x, top, f" {clean(words)}", transform=axes.get_xaxis_transform(), fontsize=9, color=COLOURS["text"], va="top")


def _rate_axis(axes: Any, curves: Sequence[Curve]) -> None:
    axes.set_xscale("log")
    low, high = curves[0].rates[0], curves[0].rates[-1]
    ticks = [step * 10.0**power for power in range(-3, 8) for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    axes.set_xticks(ticks, [q.digits(tick, 1) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)
    axes.set_xlabel("requests per second at the peak")
