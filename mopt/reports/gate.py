"""What people see of a gate: the table, the sentences, the summary for a merge request, and the page."""

from __future__ import annotations

__all__ = [
    "COLUMNS",
    "change_text",
    "figure_text",
    "github_commands",
    "interval_text",
    "render_html",
    "render_markdown",
    "rows",
    "sentences",
]

import math
from collections.abc import Sequence
from typing import Any

from mopt.records import units as q
from mopt.records.verdict import Check, GateVerdict, LayerPair, Verdict, WorstSample
from mopt.reports.charts import COLOURS, clean, draw
from mopt.reports.rendering import NONE, Fact, environment, markdown_text, visible_text

COLUMNS = {
    "check": "Check",
    "verdict": "Verdict",
    "candidate": "Candidate",
    "baseline": "Baseline",
    "change": "Change",
    "interval": "Interval",
    "limit": "Limit",
    "note": "Note",
}
"""Keys of a row with their headings."""
_MARKS = {"pass": "\N{WHITE HEAVY CHECK MARK}", "fail": "\N{CROSS MARK}", "inconclusive": "\N{BLACK QUESTION MARK ORNAMENT}"}
_FARTHEST = 3.0
"""Limits; what is farther is drawn at the edge."""


def rows(gate: GateVerdict) -> list[dict[str, str]]:
    """Return the checks as text: what decided first, then what passed, then what is only shown."""
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    ranked = sorted(gate.checks, key=lambda check: (not check.counts, order[check.verdict] if check.counts else 0))
    return [_row(check) for check in ranked]


def _row(check: Check) -> dict[str, str]:
    measured = check.change.count > 0 and not math.isclose(check.confidence, 0.0)
    return {
        "check": check.name,
        "verdict": verdict_text(check),
        "candidate": figure_text(check.candidate, check.unit) if measured else NONE,
        "baseline": figure_text(check.baseline, check.unit) if measured else NONE,
        "change": change_text(check.change.value, check) if measured else NONE,
        "interval": interval_text(check) if measured else NONE,
        "limit": check.limit or NONE,
        "note": _note(check),
    }


def verdict_text(check: Check) -> str:
    """Say what became of it; a slice that too few samples cannot tell is no verdict."""
    if check.counts:
        return check.verdict
    return f"({check.verdict})" if check.limit else "shown"


def figure_text(value: float, unit: str) -> str:
    """A figure in its unit."""
    match unit:
        case "ms":
            return q.milliseconds(value)
        case "bytes":
            return q.memory(value)
        case "/s":
            return q.rate(value)
        case "share":
            return f"{value * 100:.2f} %"
    return q.digits(value, 4)


def change_text(value: float, check: Check) -> str:
    """A change: a share of the baseline for costs, points for shares, else in the metric's units."""
    if math.isinf(value):
        return "any"
    if check.unit == "/s":  # what is compared is the time for a sample
        value = 1 / (1 + value) - 1
    if check.relative:
        return f"{value * 100:+.1f} %"
    return f"{value * 100:+.2f} pp" if check.unit == "share" else f"{value:+.4g}"


def interval_text(check: Check) -> str:
    """The interval of a change."""
    if check.change.low == check.change.high:
        return "exact"
    ends = (check.change.high, check.change.low) if check.unit == "/s" else (check.change.low, check.change.high)
    return " to ".join(change_text(end, check) for end in ends)


def _note(check: Check) -> str:
    parts = []
    if check.lost is not None and check.gained is not None and check.kind in ("quality", "slice"):
        parts.append(f"{check.lost:,} lost, {check.gained:,} gained of {check.change.count:,}")
    elif check.kind == "slice":
        parts.append(q.count(check.change.count, "sample"))
    if check.verdict == "inconclusive" and check.needed:
        parts.append(f"about {check.needed:,} samples would decide")
    if check.note:
        parts.append(check.note)
    return "; ".join(parts)


def sentences(gate: GateVerdict) -> list[str]:
    """Say the verdict first, then what it rests on and what it could not have seen."""
    against = f"{gate.candidate.name} against {gate.baseline.name}"
    match gate.verdict:
        case "pass":
            first = f"PASS: {against}: as good within the tolerance, with {gate.confidence:.0%} confidence."
        case "fail":
            first = f"FAIL: {against}: {_listed(gate.of('fail'))}."
        case _:
            left = _listed(gate.of("inconclusive"))
            first = f"INCONCLUSIVE: {against}: {left}, so it is neither proven good enough nor worse."
    lines = [first]
    for check in gate.checks:
        if check.kind == "quality" and check.power is not None and check.detectable is not None:
            loss = change_text(-check.detectable, check).removeprefix("-")
            lines.append(
                f"With {q.count(check.change.count, 'sample')}, {check.name} lets a model that is as good, and differs on as "
                f"many of them, pass in {check.power:.0%} of gates, and refuses a loss of {loss} in 90 %."
            )
            break
    return lines


def _listed(checks: Sequence[Check]) -> str:
    return "; ".join(_blame(check) for check in checks[:4]) + (f"; and {len(checks) - 4} more" if len(checks) > 4 else "")


def _blame(check: Check) -> str:
    if not check.limit:
        return f"{check.name}: {check.note}"
    if not check.change.count:
        return f"{check.name}: {check.note or 'not compared'}"
    return f"{check.name} {change_text(check.change.value, check)} ({interval_text(check)}), allowed {check.limit}" + (
        f", about {check.needed:,} samples would decide" if check.verdict == "inconclusive" and check.needed else ""
    )


def github_commands(gate: GateVerdict) -> list[str]:
    """Return GitHub's workflow commands: an error for each failure, a warning for each open question."""
    level: dict[Verdict, str] = {"fail": "error", "inconclusive": "error" if gate.inconclusive == "reject" else "warning"}
    commands = [
        f"::{level[check.verdict]} title={_property(f'mopt gate: {check.name}')}::{_data(_blame(check))}"
        for check in gate.checks
        if check.counts and check.verdict != "pass"
    ]
    return commands + [f"::warning title=mopt gate::{_data(warning)}" for warning in gate.warnings]


def _data(text: str) -> str:
    return str(visible_text(text)).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def render_markdown(gate: GateVerdict) -> str:
    """Return the summary for the page of a run, or a comment on a merge request."""
    return environment(markdown_text).get_template("gate.md.j2").render(_page(gate) | {"marks": _MARKS})


def render_html(gate: GateVerdict) -> str:
    """Return one page that loads nothing and runs nothing."""
    charts = {"limits_chart": _limits_chart(gate), "paired_chart": _paired_chart(gate)}
    return environment(visible_text).get_template("gate.html.j2").render(_page(gate) | charts)


def _page(gate: GateVerdict) -> dict[str, Any]:
    return {
        "gate": gate,
        "sentences": sentences(gate),
        "columns": COLUMNS,
        "rows": rows(gate),
        "state": {"pass": "good", "fail": "bad", "inconclusive": "unsure"}[gate.verdict],
        "tiles": _tiles(gate),
        "worst": [_worst(sample) for sample in gate.worst],
        "evidence": _evidence(gate),
        "fidelity": [Fact(name, q.digits(value, 5)) for name, value in gate.fidelity.items()],
        "machine": _machine(gate),
        "layers": [_layer(pair) for pair in gate.layers],
    }


def _tiles(gate: GateVerdict) -> list[dict[str, str]]:
    shown = [check for check in gate.checks if check.counts and check.change.count][:4]
    states = {"pass": "good", "fail": "bad", "inconclusive": "unsure"}
    return [
        {
            "name": check.name,
            "value": change_text(check.change.value, check),
            "note": f"{interval_text(check)}, allowed {check.limit or 'nothing'}",
            "state": states[check.verdict],
        }
        for check in shown
    ]


def _worst(sample: WorstSample) -> dict[str, str]:
    return {
        "name": sample.name,
        "label": sample.label,
        "loss": q.digits(sample.loss),
        "distance": q.digits(sample.distance),
        "candidate": sample.candidate,
        "baseline": sample.baseline,
        "text": sample.text,
        "picture": sample.picture,
        "folder": sample.folder,
    }


def _layer(pair: LayerPair) -> dict[str, str]:
    def time(value: float | None) -> str:
        return q.milliseconds(value) if value is not None else NONE

    both = pair.candidate_ms is not None and pair.baseline_ms
    change = f"{(pair.candidate_ms / pair.baseline_ms - 1) * 100:+.0f} %" if both else NONE  # type: ignore[operator]
    return {
        "Layer": pair.name,
        "Type": pair.kind,
        "Runs in": pair.arithmetic or NONE,
        "Candidate": time(pair.candidate_ms),
        "Baseline": time(pair.baseline_ms),
        "Change": change,
    }


def _evidence(gate: GateVerdict) -> list[Fact]:
    facts = []
    for check in gate.checks:
        if check.kind != "quality":
            continue
        facts.append(Fact(check.name, check.method or check.note))
        if check.p_value is not None:
            facts.append(Fact(f"{check.name}, exact McNemar", f"p = {q.digits(check.p_value)} for being worse"))
        if check.power is not None and check.detectable is not None:
            facts.append(
                Fact(
                    f"{check.name}, power",
                    f"one that is as good and differs as much passes with {check.power:.0%}; a loss of "
                    f"{change_text(-check.detectable, check).removeprefix('-')} is refused with 90 %",
                )
            )
    return facts


def _machine(gate: GateVerdict) -> list[Fact]:
    facts = [Fact("processor", f"{gate.machine.cpu}, {q.count(gate.machine.cores, 'core')}")]
    if gate.baseline.machine is not None:
        facts.append(Fact("baseline's", f"{gate.baseline.machine.cpu}, {q.count(gate.baseline.machine.cores, 'core')}"))
    if gate.spread is not None:
        facts.append(Fact("processes", f"one pair of fresh processes differs from the next by {gate.spread * 100:.1f} %"))
    facts += [Fact(name, q.digits(value)) for name, value in gate.noise.items()]
    return facts


# --- charts -------------------------------------------------------------------------------------------------------------


def _used(value: float, check: Check) -> float:
    """What part of the limit is used up: 0 is like the baseline, 1 is the limit."""
    assert check.allowed
    return max(-_FARTHEST, min(_FARTHEST, value / check.allowed))


def _limits_chart(gate: GateVerdict) -> str:
    """Each check with a limit on a line: how much of its limit is used up, and the interval."""
    shown = [
        check for check in gate.checks if check.allowed and check.limit and check.change.count and math.isfinite(check.allowed)
    ]
    if not shown:
        return ""

    def paint(axes: Any) -> None:
        for row, check in enumerate(reversed(shown)):
            ends = sorted((_used(check.change.low, check), _used(check.change.high, check)))
            colour = COLOURS[{"pass": "chosen", "fail": "bad", "inconclusive": "reference"}[check.verdict]]
            alpha = 1.0 if check.counts else 0.45
            axes.plot(ends, [row, row], color=colour, linewidth=2.4, solid_capstyle="butt", alpha=alpha)
            used = _used(check.change.value, check)
            beyond = {_FARTHEST: ">", -_FARTHEST: "<"}.get(used, "o")
            axes.plot([used], [row], beyond, color=colour, markersize=7, alpha=alpha)
        axes.axvline(0, color=COLOURS["faint"], linewidth=1)
        axes.axvline(1, color=COLOURS["bad"], linewidth=1.2, linestyle="--")
        axes.set_yticks(range(len(shown)), [clean(check.name) for check in reversed(shown)])
        axes.set_ylim(-0.7, len(shown) - 0.3)
        low = min(-0.3, *(min(_used(check.change.low, check), _used(check.change.high, check)) for check in shown))
        high = max(1.3, *(max(_used(check.change.low, check), _used(check.change.high, check)) for check in shown))
        axes.set_xlim(low - 0.1, high + 0.1)
        axes.set_xlabel("part of the limit that is used: 0 like the baseline, 1 the limit")
        axes.grid(axis="y", visible=False)

    return draw("limits", "How much of each limit is used", (8.6, 1.3 + 0.36 * len(shown)), paint)


def _paired_chart(gate: GateVerdict) -> str:
    """A histogram of the differences of the score, sample by sample."""
    differences = [value for value in gate.paired if value]
    if not differences:
        return ""
    worse = [value for value in differences if value < 0]
    better = [value for value in differences if value > 0]

    def paint(axes: Any) -> None:
        edge = max(map(abs, differences))
        bins = [edge * (step / 10 - 1) for step in range(21)]
        axes.hist([worse, better], bins=bins, stacked=True, color=[COLOURS["bad"], COLOURS["chosen"]])
        axes.axvline(0, color=COLOURS["faint"], linewidth=1)
        axes.set_xlabel("score of the candidate less that of the baseline; samples that do not differ are left out")
        axes.set_ylabel("samples")

    return draw("paired", "Differences sample by sample", (8.6, 2.6), paint)
