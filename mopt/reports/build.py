"""The report of a build: Markdown, and one self-contained HTML page with charts."""

from __future__ import annotations

__all__ = ["render_files", "render_html", "render_markdown"]

import dataclasses
from typing import Any

from mopt.records import units as q
from mopt.records.engine import EngineLayer
from mopt.records.manifest import Manifest
from mopt.records.trial import PassRecord, TrialRecord
from mopt.reports.candidates import COLUMNS, QUICK_NOTE, candidate_rows, frontier_rows
from mopt.reports.charts import latency_chart, quality_chart, series, throughput_chart
from mopt.reports.rendering import NONE, Fact, environment, facts_of, markdown_text, plain_text, visible_text
from mopt.reports.serving import batching_facts, capacity_facts, setting_rows
from mopt.reports.summary import beside_load_text, time_text
from mopt.reports.verdict import quality_facts, ratio_text, verdict, verdict_tiles

_SHOWN_NODES = 4


@dataclasses.dataclass(frozen=True)
class _PassLine:
    name: str
    options: str
    effect: str
    time: str
    detail: str


def render_files(manifest: Manifest) -> dict[str, str]:
    """Return the report in every form that an artifact carries, by file name."""
    return {"report.md": render_markdown(manifest), "report.html": render_html(manifest)}


def render_markdown(manifest: Manifest) -> str:
    """Return the report as Markdown; names that come from models and users are escaped."""
    return environment(markdown_text).get_template("report.md.j2").render(_page(manifest))


def render_html(manifest: Manifest) -> str:
    """Return the report as one page that loads nothing and runs nothing."""
    charts = {
        "quality_chart": quality_chart(manifest),
        "latency_chart": latency_chart(manifest),
        "throughput_chart": throughput_chart(manifest),
    }
    return environment(visible_text).get_template("report.html.j2").render(_page(manifest) | charts)


def _page(manifest: Manifest) -> dict[str, Any]:
    return {
        "manifest": manifest,
        "winner": manifest.winner,
        "tiles": verdict_tiles(manifest),
        "sentences": verdict(manifest),
        "columns": COLUMNS,
        "rows": candidate_rows(manifest),
        "quick_note": QUICK_NOTE,
        "series": series(manifest),
        "unplotted": _unplotted(manifest),
        "batches": _batch_table(manifest),
        "batching": batching_facts(manifest.batching),
        "settings": setting_rows(manifest.batching),
        "capacity": capacity_facts(manifest.serving_profile),
        "quality": quality_facts(manifest.winner.quality),
        "frontier": frontier_rows(manifest),
        "passes": [_pass_line(record) for record in manifest.winner.passes],
        "evidence": _executed(manifest.winner),
        "layers": _engine_layers(manifest),
        "left_in_float": _left_in_float(manifest),
        "source": _source(manifest),
        "data": facts_of(manifest.data),
        "signature": [Fact("input", str(spec)) for spec in manifest.signature.inputs]
        + [Fact("output", str(spec)) for spec in manifest.signature.outputs],
        "machine": _machine(manifest),
        "versions": facts_of(manifest.versions),
    }


def _unplotted(manifest: Manifest) -> list[str]:
    return [trial.name for trial in manifest.trials if trial.quality is None or not (trial.profile and trial.profile.batches)]


def _batch_table(manifest: Manifest) -> list[dict[str, str]]:
    profile = manifest.winner.profile
    return [
        {
            "Batch": str(entry.batch),
            "p50": q.milliseconds(entry.p50.value),
            "p90": q.milliseconds(entry.p90.value),
            "p99": f"{q.milliseconds(entry.p99.value)} ({q.digits(entry.p99.low)} to {q.digits(entry.p99.high)} ms)",
            "Throughput": q.rate(entry.throughput),
            "Speed-up": ratio_text(entry) if entry.ratio else NONE,
            "Runs": f"{entry.p50.count:,}",
        }
        for entry in (profile.batches if profile else ())
    ]


def _pass_line(record: PassRecord) -> _PassLine:
    return _PassLine(
        record.name,
        plain_text(record.fields),
        "changed the model" if record.modified else "changed nothing",
        "from the cache" if record.cached else q.seconds(record.seconds),
        plain_text({name: value for name, value in record.detail.items() if name != "layers"}),
    )


def _engine_layers(manifest: Manifest) -> list[dict[str, str]]:
    """The layers of a TensorRT engine that move or compute anything, in order."""
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "computes": layer.arithmetic if layer.computes else NONE,
            "types": f"{', '.join(dict.fromkeys(layer.inputs)) or NONE} to {', '.join(dict.fromkeys(layer.outputs)) or NONE}",
            "nodes": ", ".join(layer.nodes[:_SHOWN_NODES]) + ("…" if len(layer.nodes) > _SHOWN_NODES else ""),
        }
        for record in manifest.winner.passes
        for layer in map(EngineLayer.model_validate, record.detail.get("layers", []))
        if layer.inputs or layer.outputs
    ]


def _left_in_float(manifest: Manifest) -> list[dict[str, str]]:
    """Layers that compute in float although what goes into them was quantized."""
    return [dict(entry) for record in manifest.winner.passes for entry in record.detail.get("left_in_float", [])]


def _source(manifest: Manifest) -> list[Fact]:
    source = manifest.source
    agreement = f"largest difference {q.digits(source.largest_difference)} of the largest output"
    return [
        Fact("source", source.source),
        Fact("SHA-256", source.source_digest),
        Fact("exporter", f"{source.exporter}, opset {source.opset}"),
        Fact("export check", f"{agreement}, on {q.count(source.samples, 'sample')}"),
        Fact("simplified", manifest.simplified),
        *facts_of(source.detail),
    ]


def _machine(manifest: Manifest) -> list[Fact]:
    machine, control = manifest.machine, manifest.control
    facts = [
        Fact("processor", f"{machine.cpu}, {q.count(machine.cores, 'core')}, {q.memory(machine.memory_bytes)}"),
        Fact("instruction sets", ", ".join(machine.isa) or "none that matter"),
        Fact("system", f"{machine.system}, Python {machine.python}"),
        Fact("target", str(manifest.target.get("name", ""))),
        Fact("threads", str(manifest.winner.profile.threads) if manifest.winner.profile else NONE),
    ]
    if text := time_text(manifest):
        facts.append(Fact("the build took", text))
    if text := beside_load_text(manifest):
        facts.append(Fact("on a busy machine", text))
    if control is not None:
        text = f"{q.ratio(control.value)} ({q.interval(control.low, control.high)})"
        facts.append(Fact("noise control", f"the reference against itself came out as {text}; 1 is no noise"))
    return [*facts, *facts_of(manifest.noise)]


def _executed(trial: TrialRecord) -> list[Fact]:
    """What the runtime says of itself, its precision first."""
    reported = trial.effective_precision
    precision = [Fact("precision", f"{reported}, as {trial.runtime} reports it")] if reported else []
    return precision + facts_of(trial.evidence)
