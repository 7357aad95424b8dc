"""The report of a build: Markdown, and one self-contained HTML page with charts."""

from __future__ import annotations

__all__ = [
    "COLUMNS",
    "QUICK_NOTE",
    "CandidateRow",
    "Fact",
    "candidate_rows",
    "environment",
    "markdown_text",
    "quality_sentence",
    "render_files",
    "render_html",
    "render_markdown",
    "serving_sentence",
    "setting_rows",
    "verdict",
    "visible_text",
]

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.records import units as q
from mopt.records.engine import EngineLayer
from mopt.records.manifest import Manifest
from mopt.records.measurement import BatchProfile
from mopt.records.quality import Quality
from mopt.records.serving import Batching, Setting
from mopt.records.trial import PassRecord, TrialRecord
from mopt.reports.charts import latency_chart, quality_chart, series, speedup, throughput_chart
from mopt.reports.summary import beside_load_text, is_quick, quick_text

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).parent / "templates"
_NONE = "\N{EN DASH}"
_SHOWN_NODES = 4
_LONGEST_DETAIL = 400

COLUMNS = {
    "name": "Candidate",
    "outcome": "Outcome",
    "quality": "Quality",
    "bound": "Difference, bound",
    "latency": "p50",
    "speedup": "Speed-up",
    "throughput": "Throughput",
    "size": "Size",
    "load": "Load",
    "memory": "Memory",
}
"""Fields of :class:`CandidateRow` with their headings, in the order that people read them."""


QUICK_NOTE = "~ is a quick look at one batch size: it decides who is measured, and is not to be compared with what was."


@dataclasses.dataclass(frozen=True)
class CandidateRow:
    """One candidate as text, for the report and the terminal alike.

    Attributes:
        state: ``chosen``, ``reference`` or ``rejected``.
    """

    name: str
    outcome: str
    quality: str
    bound: str
    latency: str
    speedup: str
    throughput: str
    size: str
    load: str
    memory: str
    state: str

    @property
    def cells(self) -> dict[str, str]:
        """The text of each column, in the order of :data:`COLUMNS`."""
        return {column: getattr(self, column) for column in COLUMNS}


@dataclasses.dataclass(frozen=True)
class Fact:
    """A line of a list: what it is, and its value."""

    name: str
    value: str


@dataclasses.dataclass(frozen=True)
class _Tile:
    name: str
    value: str
    note: str
    state: str = ""


@dataclasses.dataclass(frozen=True)
class _PassLine:
    name: str
    options: str
    effect: str
    time: str
    detail: str


def candidate_rows(manifest: Manifest) -> tuple[CandidateRow, ...]:
    """Return the table of candidates: the chosen one, the reference, then the others from fast to slow."""
    trials = sorted(manifest.trials, key=lambda trial: _order(trial, manifest))
    return tuple(_row(trial, manifest) for trial in trials)


def verdict(manifest: Manifest) -> tuple[str, ...]:
    """Say in sentences what was chosen, how much faster it is, and how sure that it is as good."""
    winner = manifest.winner
    if manifest.chosen == manifest.reference.name:
        sentences = ["No candidate was both faster and proven good enough: the artifact is the reference itself."]
    else:
        sentences = [f"{winner.name} was chosen.", *_speed_sentences(manifest)]
        if winner.quality is not None:
            sentences.append(quality_sentence(winner.quality))
    return (*sentences, *([_full_stop(f"{manifest.why[0].upper()}{manifest.why[1:]}")] if manifest.why else []))


def quality_sentence(quality: Quality) -> str:
    """Say how a candidate compares with the reference, and how sure that is."""
    metric = quality.metric
    seen = (
        f"Its {metric} is {q.share(quality.value, metric)} against {q.share(quality.reference, metric)} for the "
        f"reference: {q.signed(quality.difference, metric)} on {_samples(quality)}"
    )
    allowed = f"a drop of {q.points(quality.allowed, metric)} is allowed"
    sure = f"{q.digits(quality.confidence * 100, 2)} % confidence"
    match quality.verdict:
        case "pass":
            return f"{seen}; with {sure} it is no lower than {q.signed(quality.bound, metric)}, and {allowed}.{_proof(quality)}"
        case "fail":
            return f"{seen}; {allowed}, so it is worse than the tolerance admits."
        case _:
            more = ""
            if quality.samples_to_decide is not None:
                more = f" About {q.count(quality.samples_to_decide, 'sample')} would decide."
            return (
                f"{seen}. That is within the tolerance ({allowed}), but {_samples(quality)} can only "
                f"exclude a drop larger than {q.points(min(quality.bound, 0.0), metric)} with {sure}.{more}"
            )


def _proof(quality: Quality) -> str:
    """Say what a verdict without labels rests on; nothing where labels say it."""
    if quality.proof == "estimated":
        return f" That is estimated without labels: it holds if {quality.assumption}."
    if quality.proof == "certified":
        return f" That is certified: {quality.assumption or 'it holds whatever the labels are'}."
    return ""


def _samples(quality: Quality) -> str:
    groups = f" in {q.count(quality.groups, 'group')}" if quality.groups else ""
    return f"{q.count(quality.count, 'sample')}{groups}"


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


@functools.cache
def environment(finalize: Callable[[Any], Any] | None = None) -> jinja2.Environment:
    """Return the templates; every value is put through ``finalize``, by default to what is visible."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        finalize=finalize or visible_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _markdown_code, "facts": _markdown_facts}
    return environment


def _page(manifest: Manifest) -> dict[str, Any]:
    return {
        "manifest": manifest,
        "winner": manifest.winner,
        "tiles": _tiles(manifest),
        "sentences": verdict(manifest),
        "columns": COLUMNS,
        "rows": candidate_rows(manifest),
        "quick_note": QUICK_NOTE,
        "series": series(manifest),
        "unplotted": _unplotted(manifest),
        "batches": _batch_table(manifest),
        "batching": _batching(manifest),
        "settings": setting_rows(manifest.batching),
        "capacity": _capacity(manifest),
        "quality": _quality(manifest),
        "frontier": _frontier(manifest),
        "passes": [_pass_line(record) for record in manifest.winner.passes],
        "evidence": _executed(manifest.winner),
        "layers": _engine_layers(manifest),
        "left_in_float": _left_in_float(manifest),
        "source": _source(manifest),
        "data": _facts(manifest.data),
        "signature": [Fact("input", str(spec)) for spec in manifest.signature.inputs]
        + [Fact("output", str(spec)) for spec in manifest.signature.outputs],
        "machine": _machine(manifest),
        "versions": _facts(manifest.versions),
    }


def _order(trial: TrialRecord, manifest: Manifest) -> tuple[bool, bool, bool, bool, float]:
    entry = _at_one(trial)
    return (
        trial.name != manifest.chosen,
        trial.name != manifest.reference.name,
        entry is None or is_quick(trial),
        entry is None,
        entry.p50.value if entry else 0.0,
    )


def _row(trial: TrialRecord, manifest: Manifest) -> CandidateRow:
    entry, profile, quality = _at_one(trial), trial.profile, trial.quality
    return CandidateRow(
        name=trial.name,
        outcome=_outcome(trial, manifest),
        quality=q.share(quality.value, quality.metric) if quality else _NONE,
        bound=_difference(quality) if quality and trial.name != manifest.reference.name else _NONE,
        latency=q.milliseconds(entry.p50.value) if entry and not is_quick(trial) else _NONE,
        speedup=_speedup(trial, manifest),
        throughput=_throughput(trial),
        size=q.memory(trial.size_bytes) if trial.size_bytes is not None else _NONE,
        load=q.milliseconds(profile.load_ms) if profile else _NONE,
        memory=q.memory(profile.peak_bytes) if profile and profile.peak_bytes else _NONE,
        state=_state(trial, manifest),
    )


def _at_one(trial: TrialRecord) -> BatchProfile | None:
    """Return the profile of the smallest batch that was measured."""
    return min(trial.profile.batches, key=lambda entry: entry.batch, default=None) if trial.profile else None


def _difference(quality: Quality) -> str:
    proof = "" if quality.proof == "labels" else f", {quality.standing}"
    return f"{q.signed(quality.difference, quality.metric)}, at least {q.signed(quality.bound, quality.metric)}{proof}"


def _speedup(trial: TrialRecord, manifest: Manifest) -> str:
    entry = _at_one(trial)
    speed = speedup(trial, manifest, entry.batch) if entry else None
    if speed is None:
        return _NONE
    if is_quick(trial):
        return quick_text(speed[0])
    return f"{q.ratio(speed[0])} disturbed" if entry is not None and entry.disturbed else q.ratio(speed[0])


def _throughput(trial: TrialRecord) -> str:
    if trial.profile is None or not trial.profile.batches or is_quick(trial):
        return _NONE
    best = max(trial.profile.batches, key=lambda entry: entry.throughput)
    return f"{q.rate(best.throughput)} at batch {best.batch}"


def _state(trial: TrialRecord, manifest: Manifest) -> str:
    if trial.name == manifest.chosen:
        return "chosen"
    return "reference" if trial.name == manifest.reference.name else "rejected"


def _outcome(trial: TrialRecord, manifest: Manifest) -> str:
    if trial.name == manifest.chosen:
        return "chosen: the reference itself" if trial.name == manifest.reference.name else "chosen"
    if trial.name == manifest.reference.name:
        return "reference"
    return f"{trial.outcome.rejection}: {trial.outcome.reason}" if trial.outcome else "not chosen"


def _speed_sentences(manifest: Manifest) -> list[str]:
    profile = manifest.winner.profile
    interleaved = [entry for entry in profile.batches if entry.ratio is not None] if profile else []
    if not interleaved:
        return []
    ends = [interleaved[0], interleaved[-1]] if len(interleaved) > 1 else interleaved
    parts = [f"{_ratio_text(entry)} at batch {entry.batch}" for entry in ends]
    return [f"Its speed-up over the reference, measured interleaved with it, is {' and '.join(parts)}."]


def _ratio_text(entry: BatchProfile) -> str:
    assert entry.ratio is not None
    return f"{q.ratio(entry.ratio.value)} ({q.interval(entry.ratio.low, entry.ratio.high)})"


def _tiles(manifest: Manifest) -> list[_Tile]:
    winner, reference = manifest.winner, manifest.reference
    tiles = []
    for entry in _ends(winner):
        if entry.ratio is not None and winner.name != reference.name:
            note = f"{q.interval(entry.ratio.low, entry.ratio.high)}, {q.milliseconds(entry.p50.value)} p50"
            tiles.append(_Tile(f"Speed-up, batch {entry.batch}", q.ratio(entry.ratio.value), note, "good"))
        else:
            tiles.append(_Tile(f"p50, batch {entry.batch}", q.milliseconds(entry.p50.value), q.rate(entry.throughput)))
    if winner.profile is None:
        tiles.append(_Tile("Speed", "not measured", str(winner.evidence.get("measured", ""))))
    if (quality := winner.quality) is not None and winner.name != reference.name:
        state = {"pass": "good", "fail": "bad", "inconclusive": "unsure"}[quality.verdict]
        note = f"{quality.metric}, at least {q.signed(quality.bound, quality.metric)}, {_verdict_word(quality)}"
        tiles.append(_Tile("Quality", q.signed(quality.difference, quality.metric), note, state))
    if winner.size_bytes is not None:
        note = ""
        if reference.size_bytes and winner.name != reference.name:
            note = f"reference {q.memory(reference.size_bytes)}"
        tiles.append(_Tile("Size", q.memory(winner.size_bytes), note))
    return tiles


def _verdict_word(quality: Quality) -> str:
    return quality.verdict if quality.proof in ("labels", "none") else f"{quality.verdict}, {quality.standing}"


def _ends(trial: TrialRecord) -> Sequence[BatchProfile]:
    batches = sorted(trial.profile.batches, key=lambda entry: entry.batch) if trial.profile else []
    return [batches[0], batches[-1]] if len(batches) > 1 else batches


def _unplotted(manifest: Manifest) -> list[str]:
    return [trial.name for trial in manifest.trials if trial.quality is None or not _ends(trial)]


def _batch_table(manifest: Manifest) -> list[dict[str, str]]:
    profile = manifest.winner.profile
    return [
        {
            "Batch": str(entry.batch),
            "p50": q.milliseconds(entry.p50.value),
            "p90": q.milliseconds(entry.p90.value),
            "p99": f"{q.milliseconds(entry.p99.value)} ({q.digits(entry.p99.low)} to {q.digits(entry.p99.high)} ms)",
            "Throughput": q.rate(entry.throughput),
            "Speed-up": _ratio_text(entry) if entry.ratio else _NONE,
            "Runs": f"{entry.p50.count:,}",
        }
        for entry in (profile.batches if profile else ())
    ]


def _batching(manifest: Manifest) -> list[Fact]:
    batching = manifest.batching
    threads = f", {q.count(batching.threads, 'thread')} each" if batching.threads else ""
    spare_replicas = f", of which {batching.spare_replicas} may be lost" if batching.spare_replicas else ""
    facts = [
        Fact("largest batch", str(batching.max_batch)),
        Fact("queue delay", q.milliseconds(batching.queue_delay_us / 1e3) if batching.queue_delay_us else "none"),
        Fact("instances on a server", f"{batching.instances}{threads}"),
        Fact("servers", f"{batching.replicas}{spare_replicas}"),
    ]
    if batching.rate is not None:
        arrivals = f", {batching.arrivals}" if batching.arrivals else ""
        facts.append(Fact("planned for", f"{q.digits(batching.rate)} requests per second{arrivals}"))
    if batching.utilization is not None:
        facts.append(Fact("utilization", f"{q.digits(batching.utilization * 100)} % of capacity"))
    if batching.predicted_p99_ms is not None:
        facts.append(Fact("predicted p99", q.milliseconds(batching.predicted_p99_ms)))
    if batching.burst_p99_ms is not None:
        facts.append(Fact("p99 in bursts of 3 times the rate", q.milliseconds(batching.burst_p99_ms)))
    if batching.headroom is not None:
        facts.append(Fact("holds up to", f"{q.digits(batching.headroom)} times that rate"))
    if batching.peak_qps is not None:
        facts.append(Fact("largest rate of one server", f"{q.digits(batching.peak_qps)} requests per second"))
    return [*facts, Fact("decided by", batching.limited_by)]


def serving_sentence(batching: Batching) -> str:
    """Say the batch settings in one line."""
    spare_replicas = f" ({batching.spare_replicas} of them may be lost)" if batching.spare_replicas else ""
    delay = q.milliseconds(batching.queue_delay_us / 1e3) if batching.queue_delay_us else "no"
    parts = [
        f"batches up to {batching.max_batch}, {q.count(batching.instances, 'instance')}"
        + (f" of {q.count(batching.threads, 'thread')}" if batching.threads else ""),
        f"{delay} queue delay",
        f"{q.count(batching.replicas, 'server')}{spare_replicas}",
    ]
    if batching.predicted_p99_ms is not None and batching.utilization is not None:
        parts.append(f"predicted p99 {q.milliseconds(batching.predicted_p99_ms)} at {batching.utilization:.0%} utilization")
    if batching.rate is None and batching.peak_qps is not None:
        parts.append(f"up to {q.rate(batching.peak_qps)} within the p99")
    return f"{'; '.join(parts)} (decided by {batching.limited_by})"


def setting_rows(batching: Batching) -> list[dict[str, str]]:
    """Return the table of alternatives: every setting that was weighed, the cheapest first, and the rule of thumb last."""
    ranked = sorted(batching.alternatives, key=lambda setting: (setting.replicas or math.inf, setting.p99_ms or math.inf))
    rows = [_setting_row(setting, batching, "") for setting in ranked]
    return rows + ([_setting_row(batching.rule_of_thumb, batching, "rule of thumb")] if batching.rule_of_thumb else [])


def _setting_row(setting: Setting, batching: Batching, name: str) -> dict[str, str]:
    same = (setting.max_batch, setting.queue_delay_us, setting.instances) == (
        batching.max_batch, batching.queue_delay_us, batching.instances,
    )  # fmt: skip
    needed = batching.replicas - batching.spare_replicas
    dearer = f": {setting.replicas / needed:.2g} times the servers" if setting.replicas and name else ""
    return {
        "": (name + dearer) or ("chosen" if same else ""),
        "Largest batch": str(setting.max_batch),
        "Queue delay": q.milliseconds(setting.queue_delay_us / 1e3) if setting.queue_delay_us else "none",
        "Instances": f"{setting.instances} of {q.count(setting.threads, 'thread')}",
        "Servers": str(setting.replicas) if setting.replicas is not None else _NONE,
        "p99": q.milliseconds(setting.p99_ms) if setting.p99_ms is not None else _NONE,
        "Utilization": f"{q.digits(setting.utilization * 100, 2)} %" if setting.utilization is not None else _NONE,
        "Mean batch": q.digits(setting.mean_batch) if setting.mean_batch is not None else _NONE,
        "Decided by": setting.limited_by,
    }


def _capacity(manifest: Manifest) -> list[Fact]:
    profile = manifest.serving_profile
    if profile is None:
        return []
    facts = [
        Fact("cold start", f"{q.milliseconds(profile.load_ms)} to load, {q.milliseconds(profile.first_ms)} to answer first"),
        Fact("steady after", q.milliseconds(profile.warm_ms)),
        Fact("memory", ", ".join(f"{q.memory(size)} up to batch {batch}" for batch, size in profile.memory.items() if size)),
    ]
    for group in profile.instance_groups[1:]:
        first, single = group.concurrent[0].p50.value, group.solo[0].p50.value
        facts.append(
            Fact(
                f"{group.instances} instances",
                f"of {q.count(group.threads, 'thread')}: batch {group.concurrent[0].batch} takes {q.milliseconds(single)} "
                f"alone and {q.milliseconds(first)} when all work",
            )
        )
    if profile.padding is not None:
        facts.append(Fact("padding", f"{q.digits(profile.padding * 100, 2)} % of the work when mixed requests share a batch"))
    noise = ", ".join(f"{name} {q.digits(value)}" for name, value in profile.noise.items())
    return [*facts, Fact("machine meanwhile", noise or "not known")]


def _quality(manifest: Manifest) -> list[Fact]:
    quality = manifest.winner.quality
    if quality is None:
        return []
    return [
        Fact("metric", quality.metric + (f", since {quality.because}" if quality.because else "")),
        Fact("chosen", q.share(quality.value, quality.metric)),
        Fact("reference", q.share(quality.reference, quality.metric)),
        Fact("difference", q.signed(quality.difference, quality.metric)),
        Fact("lower bound", f"{q.signed(quality.bound, quality.metric)} at {q.digits(quality.confidence * 100, 2)} %"),
        Fact("allowed", q.signed(quality.allowed, quality.metric)),
        Fact("samples", _samples(quality)),
        Fact("verdict", quality.verdict),
        Fact("proof", f"{quality.standing}{f': if {quality.assumption}' if quality.proof == 'estimated' else ''}"),
        *(Fact(name, q.digits(value, 5)) for name, value in quality.fidelity.items()),
    ]


def _frontier(manifest: Manifest) -> list[dict[str, str]]:
    """How quality and speed go together for the candidates that leave operators in float, the fewest first."""
    mixed = [trial for trial in manifest.trials if _kept(trial)]
    plain = {trial.name.rpartition("-mixed")[0] for trial in mixed}
    shown = [trial for trial in manifest.trials if trial.name in plain] + mixed
    rows = []
    for trial in sorted(shown, key=lambda trial: (trial.name.rpartition("-mixed")[0] or trial.name, len(_kept(trial)))):
        row = _row(trial, manifest)
        rows.append(
            {
                "Candidate": trial.name,
                "In float": str(len(_kept(trial))),
                "Quality": row.quality,
                "Difference, bound": row.bound,
                "Speed-up": row.speedup,
                "Outcome": trial.outcome.rejection if trial.outcome else row.outcome,
                "Operators in float": ", ".join(_kept(trial)) or _NONE,
            }
        )
    return rows


def _kept(trial: TrialRecord) -> list[str]:
    return list(trial.float_nodes or ()) if "-mixed" in trial.name else []


def _pass_line(record: PassRecord) -> _PassLine:
    return _PassLine(
        record.name,
        _plain(record.fields),
        "changed the model" if record.modified else "changed nothing",
        "from the cache" if record.cached else q.seconds(record.seconds),
        _plain({name: value for name, value in record.detail.items() if name != "layers"}),
    )


def _engine_layers(manifest: Manifest) -> list[dict[str, str]]:
    """The layers of a TensorRT engine that move or compute anything, in order."""
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "computes": layer.arithmetic if layer.computes else _NONE,
            "types": f"{', '.join(dict.fromkeys(layer.inputs)) or _NONE} to {', '.join(dict.fromkeys(layer.outputs)) or _NONE}",
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
        *_facts(source.detail),
    ]


def _machine(manifest: Manifest) -> list[Fact]:
    machine, control = manifest.machine, manifest.control
    facts = [
        Fact("processor", f"{machine.cpu}, {q.count(machine.cores, 'core')}, {q.memory(machine.memory_bytes)}"),
        Fact("instruction sets", ", ".join(machine.isa) or "none that matter"),
        Fact("system", f"{machine.system}, Python {machine.python}"),
        Fact("target", str(manifest.target.get("name", ""))),
        Fact("threads", str(manifest.winner.profile.threads) if manifest.winner.profile else _NONE),
    ]
    if text := beside_load_text(manifest):
        facts.append(Fact("on a busy machine", text))
    if control is not None:
        text = f"{q.ratio(control.value)} ({q.interval(control.low, control.high)})"
        facts.append(Fact("noise control", f"the reference against itself came out as {text}; 1 is no noise"))
    return [*facts, *_facts(manifest.noise)]


def _executed(trial: TrialRecord) -> list[Fact]:
    """What the runtime says of itself, its precision first."""
    reported = trial.effective_precision
    precision = [Fact("precision", f"{reported}, as {trial.runtime} reports it")] if reported else []
    return precision + _facts(trial.evidence)


def _facts(values: Mapping[str, Any]) -> list[Fact]:
    return [Fact(name, _plain(value) or "none") for name, value in values.items()]


def _plain(value: Any) -> str:
    """Return JSON data as a short line for people."""
    if value is None or value == {} or value == []:
        return ""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return q.digits(value, 4)
        case str():
            text = value
        case dict():
            text = ", ".join(f"{key} {part}" for key, item in value.items() if (part := _plain(item)))
        case list() | tuple():
            text = ", ".join(map(_plain, value))
        case _:
            text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_DETAIL else f"{text[:_LONGEST_DETAIL]}…"


def _full_stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def visible_text(value: Any) -> Any:
    """Drop characters that no page can show; the template engine escapes the rest."""
    return _without_controls(value) if type(value) is str else value


def _without_controls(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def markdown_text(value: Any) -> Any:
    """Escape what is markup, so that a name is only a name."""
    if type(value) is not str:
        return value
    text = " ".join(_without_controls(value).split())
    text = re.sub(r"([\\`*\[\]<>|~&#$!])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


@dataclasses.dataclass(frozen=True)
class _Markup:
    """Text that is Markdown already."""

    text: str

    def __str__(self) -> str:
        return self.text


def _markdown_facts(facts: Sequence[Fact]) -> _Markup:
    return _Markup("\n".join(f"- {markdown_text(fact.name)}: {markdown_text(fact.value)}" for fact in facts) + "\n")


def _markdown_code(value: str) -> _Markup:
    """Return a fenced block that its content cannot end."""
    text = _without_controls(value)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return _Markup(f"{fence}\n{text}\n{fence}")
