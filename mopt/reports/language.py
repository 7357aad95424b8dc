"""The report of a build of a language model: rows, sentences, Markdown, and one page of HTML."""

from __future__ import annotations

__all__ = [
    "COLUMNS",
    "closing_lines",
    "language_rows",
    "outcome_text",
    "outlay_text",
    "quality_sentence",
    "render_files",
    "short_outcome",
    "speed_sentence",
]

import shlex
from pathlib import Path
from typing import Any

from mopt.records import units as q
from mopt.records.divergence import Divergence, GenerationCheck
from mopt.records.divergence import Estimate as TokenEstimate
from mopt.records.language import LanguageManifest, LanguageTrial, Outlay
from mopt.records.measurement import Estimate
from mopt.records.quality import Quality
from mopt.reports.rendering import NONE, Fact, environment, facts_of, markdown_text, visible_text
from mopt.reports.verdict import Tile

COLUMNS = {
    "name": "Candidate",
    "size": "Size",
    "bits": "Bits",
    "perplexity": "Perplexity",
    "loss": "Log loss",
    "agreement": "Top-1",
    "decode": "Decode",
    "prefill": "Prefill",
    "outcome": "Outcome",
}
NOTE = (
    "Bits are those of all tensors over all parameters, embeddings included. Log loss is the change in nats per token and its "
    "one-sided bound; Top-1 the share of tokens whose likeliest successor is the reference's. Speeds are tokens per second of "
    "one request at a time."
)


def render_files(manifest: LanguageManifest) -> dict[str, str]:
    """Return the report in every form that an artifact carries, by file name."""
    page = _page(manifest)
    return {
        "report.md": environment(markdown_text).get_template("language.md.j2").render(page),
        "report.html": environment(visible_text).get_template("language.html.j2").render(page),
    }


def language_rows(manifest: LanguageManifest) -> list[dict[str, str]]:
    """Return a row of text for each trial, in the order of the manifest."""
    return [_row(trial, manifest) for trial in manifest.trials]


def _row(trial: LanguageTrial, manifest: LanguageManifest) -> dict[str, str]:
    text, speed, quality = trial.text, trial.speed, trial.quality
    agreement = text.divergence.agreement.value if text and text.divergence else None
    return {
        "name": trial.name,
        "size": q.memory(trial.size_bytes) if trial.size_bytes else NONE,
        "bits": q.digits(trial.bits_per_weight) if trial.bits_per_weight else NONE,
        "perplexity": q.digits(text.perplexity, 4) if text else NONE,
        "loss": _loss(quality) if quality else NONE,
        "agreement": f"{agreement:.1%}" if agreement is not None else NONE,
        "decode": _rate(speed.decode) if speed else NONE,
        "prefill": _rate(speed.prefill) if speed else NONE,
        "outcome": outcome_text(trial, manifest),
    }


def _loss(quality: Quality) -> str:
    return f"{-quality.difference:+.3f} (\N{LESS-THAN OR EQUAL TO} {-quality.bound:+.3f})".replace("-", q.MINUS)


def _rate(rate: Estimate) -> str:
    return f"{q.digits(rate.value)}/s"


def short_outcome(trial: LanguageTrial, manifest: LanguageManifest) -> str:
    """Say in a word or two what became of it."""
    if trial.name == manifest.chosen:
        return "chosen"
    if trial.name == manifest.reference.name:
        return "reference"
    return str(trial.outcome.rejection) if trial.outcome else "not chosen"


def outcome_text(trial: LanguageTrial, manifest: LanguageManifest) -> str:
    """Say what became of it, and why."""
    reason = trial.outcome.reason if trial.outcome and trial.name not in (manifest.chosen, manifest.reference.name) else ""
    return ": ".join(filter(None, [short_outcome(trial, manifest), reason]))


def speed_sentence(manifest: LanguageManifest) -> str:
    """Say how fast the chosen one answers, and how much faster than the unquantized model."""
    speed = manifest.winner.speed
    if speed is None:
        return "Its speed was not measured."
    text = f"It writes {q.digits(speed.decode.value)} tokens per second and reads {q.digits(speed.prefill.value)}"
    if speed.decode_ratio is None:
        return f"{text}; nothing faster holds the tolerance."
    ratio, prefill = speed.decode_ratio, speed.prefill_ratio
    reads = f", and reads {q.digits(prefill.value)} times as fast" if prefill else ""
    return (
        f"{text}; that is {q.digits(ratio.value)} times as fast as {manifest.baseline} "
        f"({q.interval(ratio.low, ratio.high)}){reads}."
    )


def quality_sentence(manifest: LanguageManifest) -> str:
    """Say how far it is from the unquantized model on the user's text, and how sure that is."""
    winner, reference = manifest.winner, manifest.reference
    if winner.text is None or reference.text is None or winner.quality is None:
        return "Its quality was not judged."
    quality = winner.quality
    proof = {
        "pass": f"with {quality.confidence:.0%} confidence it is no more than {-quality.bound:+.3f}",
        "inconclusive": f"which {winner.text.tokens:,} tokens do not prove: the bound is {-quality.bound:+.3f}",
    }.get(quality.verdict, "more than the tolerance admits")
    return (
        f"Its perplexity is {q.digits(winner.text.perplexity, 4)} and the unquantized model's "
        f"{q.digits(reference.text.perplexity, 4)}, a change of {-quality.difference:+.3f} nats per token; {proof}, and "
        f"{-quality.allowed:+.3f} is allowed."
    )


def closing_lines(manifest: LanguageManifest, folder: Path) -> tuple[str, ...]:
    """Return what was chosen, how fast and how right it is, and what to do next."""
    source, winner = manifest.source, manifest.winner
    size = q.memory(winner.size_bytes or 0)
    chosen = (
        f"mopt chose {winner.name} for {manifest.name} on {q.count(manifest.machine.cores, 'core')} of {manifest.machine.cpu}, "
        f"{size} instead of {q.memory(source.size_bytes)}."
    )
    quoted = shlex.quote(str(folder))
    systems = [name for name in manifest.recipe.get("serve", ()) if (folder / "serving" / name / "README.md").is_file()]
    systems = systems or sorted(path.parent.name for path in folder.glob("serving/*/README.md"))
    starts = [f"Serve it: {folder / 'serving' / name / 'README.md'} has the one command." for name in systems[:1]]
    more = [f"Also written for {', '.join(systems[1:])}."] if len(systems) > 1 else []
    check = f"Next: mopt verify {quoted}" + (f" --server {systems[0]}" if systems else "") + " where it will be served."
    return (chosen, speed_sentence(manifest), quality_sentence(manifest), *starts, *more, check)


def _page(manifest: LanguageManifest) -> dict[str, Any]:
    winner = manifest.winner
    return {
        "manifest": manifest,
        "winner": winner,
        "tiles": _tiles(manifest),
        "sentences": [speed_sentence(manifest), quality_sentence(manifest), f"{manifest.why[0].upper()}{manifest.why[1:]}."],
        "columns": COLUMNS,
        "rows": language_rows(manifest),
        "states": {trial.name: _state(trial, manifest) for trial in manifest.trials},
        "note": NOTE,
        "divergence": _divergence(winner.text.divergence) if winner.text and winner.text.divergence else [],
        "generation": _generation(winner.generation) if winner.generation else [],
        "evidence": facts_of(winner.evidence),
        "passes": [
            Fact(record.name, _pass_text(record.fields, record.seconds, cached=record.cached)) for record in winner.passes
        ],
        "source": _source(manifest),
        "data": facts_of(manifest.data),
        "machine": _machine(manifest),
        "versions": facts_of(manifest.versions),
        "golden_facts": [Fact(golden.text[:120], f"{q.count(len(golden.ids), 'token')}") for golden in manifest.golden.texts],
    }


def _pass_text(fields: dict[str, Any], seconds: float, *, cached: bool) -> str:
    options = ", ".join(
        f"{name} {value}" for name, value in fields.items() if isinstance(value, str | int | float) and value != ""
    )
    return f"{options or 'no options'}; {'from the cache' if cached else q.seconds(seconds)}"


def _divergence(divergence: Divergence) -> list[Fact]:
    bound = "" if divergence.exact else f", a lower bound from the {divergence.top} likeliest tokens"
    facts = [
        Fact("KL divergence", f"{_mean(divergence.kl)} nats per token{bound}"),
        Fact("likeliest token the same", f"{divergence.agreement.value:.2%} of {divergence.tokens:,} tokens"),
        Fact("change of a token's logarithm", f"{_mean(divergence.distance)} nats on average"),
    ]
    if (greedy := divergence.greedy) is not None:
        median = "" if greedy.median is None else f"; half of them part by token {greedy.median + 1:.0f}"
        facts.append(
            Fact("greedy answers the same", f"{greedy.identical:.0%} of {greedy.prompts}, {greedy.tokens} tokens{median}")
        )
    return facts


def _mean(estimate: TokenEstimate) -> str:
    return f"{q.digits(estimate.value)} ({q.interval(estimate.low, estimate.high)})"


def _generation(check: GenerationCheck) -> list[Fact]:
    facts = [
        Fact("sanity", f"{check.verdict} on {q.count(check.prompts, 'prompt')}{f': {check.reason}' if check.reason else ''}")
    ]
    for name, writing in (("the unquantized model", check.reference), ("this one", check.candidate)):
        facts.append(
            Fact(name, f"{writing.distinct_2:.0%} different pairs of tokens, compression {q.digits(writing.compression)}")
        )
    return facts


def _state(trial: LanguageTrial, manifest: LanguageManifest) -> str:
    if trial.name in (manifest.chosen, manifest.reference.name):
        return "chosen" if trial.name == manifest.chosen else "reference"
    return "lost"


def _tiles(manifest: LanguageManifest) -> list[Tile]:
    winner = manifest.winner
    tiles = []
    if winner.speed is not None:
        ratio = winner.speed.decode_ratio
        note = f"{q.ratio(ratio.value)} of {manifest.baseline}" if ratio else "one request at a time"
        tiles.append(Tile("decode", f"{q.digits(winner.speed.decode.value)} tokens/s", note, "good"))
        prefill = winner.speed.prefill_ratio
        note = f"{q.ratio(prefill.value)} of {manifest.baseline}" if prefill else ""
        tiles.append(Tile("prefill", f"{q.digits(winner.speed.prefill.value)} tokens/s", note, "good"))
    if winner.text is not None and manifest.reference.text is not None:
        state = (
            {"pass": "good", "inconclusive": "unsure", "fail": "bad"}.get(winner.quality.verdict, "") if winner.quality else ""
        )
        note = f"{q.digits(manifest.reference.text.perplexity, 4)} unquantized"
        tiles.append(Tile("perplexity", q.digits(winner.text.perplexity, 4), note, state))
    if winner.size_bytes:
        bits = f"{q.digits(winner.bits_per_weight)} bits per weight" if winner.bits_per_weight else ""
        tiles.append(Tile("size", q.memory(winner.size_bytes), bits))
    return tiles


def outlay_text(outlay: Outlay) -> str:
    """Say it in one line."""
    return (
        f"{q.memory(outlay.memory_bytes)} of memory, {q.about(outlay.seconds)} ({q.about(outlay.passes_seconds)} of it making "
        f"candidates), {q.memory(outlay.disk_bytes)} of disk"
    )


def _source(manifest: LanguageManifest) -> list[Fact]:
    source = manifest.source
    facts = [
        Fact("source", source.source),
        Fact("SHA-256", source.digest),
        Fact("architecture", f"{source.architecture}, {source.parameters:,} parameters, {q.memory(source.size_bytes)}"),
        Fact("vocabulary", f"{source.vocabulary:,} tokens"),
        Fact("positions", f"{source.positions:,}, served with {manifest.context:,}"),
        Fact("chat template", "yes" if source.chat else "none"),
        Fact("licence", source.licence or "none was found beside the model"),
    ]
    if source.note:
        facts.append(Fact("note", source.note))
    for name, outlay in (("expected before", manifest.expected), ("taken", manifest.taken)):
        if outlay is not None:
            facts.append(Fact(name, outlay_text(outlay)))
    return facts


def _machine(manifest: LanguageManifest) -> list[Fact]:
    machine = manifest.machine
    took = ", ".join(f"{title} {q.seconds(value)}" for title, value in manifest.stage_seconds.items() if value >= 1)
    return [
        Fact("processor", f"{machine.cpu}, {q.count(machine.cores, 'core')}, {q.memory(machine.memory_bytes)}"),
        Fact("instruction sets", ", ".join(machine.isa) or "none that matter"),
        Fact("system", f"{machine.system}, Python {machine.python}"),
        Fact("the build took", took or "less than a second in every stage"),
        *facts_of(manifest.noise),
    ]
