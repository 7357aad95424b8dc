"""The flow of a build of a language model, and nothing else."""

from __future__ import annotations

__all__ = ["LanguagePlan", "build_language", "explain_language_plan"]

import dataclasses
import time
from pathlib import Path
from typing import Any

from mopt.artifacts import bundle
from mopt.artifacts.language import LanguageArtifact, read_language_manifest, served_model, write_language_artifact
from mopt.profiles.noise import DISTURBED
from mopt.progress import Progress, Silent, Stopwatch
from mopt.recipe import Recipe
from mopt.records._base import stamp
from mopt.records.language import LanguageGolden, LanguageManifest, LanguageSource, LanguageTrial, Outlay
from mopt.reports.language import outlay_text, render_files
from mopt.runtimes.language._base import LanguageProcess
from mopt.search.language.choice import LanguageChoice, choose
from mopt.search.language.judge import judge_all, reference_trial
from mopt.search.language.race import race
from mopt.search.language.trial import LanguageCandidate
from mopt.system.digests import digest
from mopt.system.environments import versions_in
from mopt.system.hangs import recorded, recording
from mopt.system.plugins import installed, load, names
from mopt.system.store import Store, code_digest, default_root
from mopt.workflows._fetched import fetched_recipe
from mopt.workflows._recipes import python_command
from mopt.workflows.language._golden import make_golden
from mopt.workflows.language._outlay import expected_outlay, taken_outlay
from mopt.workflows.language._request import (
    LanguageSite,
    LanguageTask,
    candidates_of,
    check_language_recipe,
    objective_of,
    open_task,
    serving_of,
)

_WRITING = "writing the artifact"
_GOLDEN_TOKENS = 48


@dataclasses.dataclass(frozen=True)
class LanguagePlan:
    """What a build would do."""

    recipe: Recipe
    source: LanguageSource
    context: int
    metric: str
    data: dict[str, Any]
    candidates: tuple[LanguageCandidate, ...]
    expected: Outlay


def explain_language_plan(
    recipe: Recipe, source: Path, *, progress: Progress | None = None, store: Store | None = None
) -> LanguagePlan:
    """Read the model and the text, and return what a build would try."""
    progress, store = progress or Silent(), store or Store(default_root())
    site = check_language_recipe(recipe, source)
    local = fetched_recipe(recipe.model_copy(update={"model": str(source)}), progress, store)
    task = open_task(local, site, store, progress)
    candidates = candidates_of(local, site, task, progress)
    return LanguagePlan(
        recipe=recipe,
        source=site.source.record,
        context=site.context,
        metric=task.metric.name,
        data=task.text.description,
        candidates=tuple(candidates),
        expected=expected_outlay(site, task, candidates),
    )


def build_language(
    recipe: Recipe,
    source: Path,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    store: Store | None = None,
    command: str = "",
) -> LanguageArtifact:
    """Build the best quantized form of a language model that is still right, judged in the runtime that will serve it.

    Args:
        recipe: What is asked.
        source: Where the model is on this machine.
        out: Folder to write; default: the name of the model with ``.mopt`` added, in the current folder.
        force: Replace an artifact that is there.
        progress: Receives the stages.
        store: Cache to use instead of the default one.
        command: The command line to record; default: one that is made from the recipe.

    Raises:
        UserError: When the request cannot be carried out; nothing is written then.
    """
    progress, store = Stopwatch(progress or Silent()), store or Store(default_root())
    start = time.monotonic()
    site = check_language_recipe(recipe, source)
    destination = Path(out) if out else Path(f"{recipe.name}.mopt")
    bundle.check_destination(destination, force=force)
    with recording(progress):
        local = fetched_recipe(recipe.model_copy(update={"model": str(source)}), progress, store)
        task = open_task(local, site, store, progress)
        with store.entry("language-builds", _key(recipe, site, task)) as entry:
            if entry.scratch is not None:
                kept = _models_bytes(store)
                candidates = candidates_of(local, site, task, progress)
                expected = expected_outlay(site, task, candidates)
                progress.note(f"expected: {outlay_text(expected)}")
                reference = reference_trial(task.judging, progress)
                trials = judge_all(candidates, task.judging, reference, progress)
                trials, baseline = race(trials, task.racing, site.monitor, progress)
                choice = choose(trials, objective_of(recipe), baseline)
                golden = _golden(choice, task, progress)
                progress.stage(_WRITING, 1)
                manifest = _manifest(
                    recipe, site, task, reference.record, choice, golden, command or python_command(recipe, destination)
                )
                manifest = manifest.model_copy(
                    update={
                        "baseline": baseline,
                        "expected": expected,
                        "taken": taken_outlay(manifest.trials, time.monotonic() - start, _models_bytes(store) - kept),
                        "stage_seconds": {title: round(value, 2) for title, value in progress.seconds.items()},
                    }
                )
                _write(entry.scratch / "artifact", site, manifest, choice)
                progress.step()
    bundle.place(entry.folder / "artifact", destination, force=force)
    return LanguageArtifact(destination, read_language_manifest(destination), cached=entry.scratch is None)


def _key(recipe: Recipe, site: LanguageSite, task: LanguageTask) -> dict[str, Any]:
    """Everything that an artifact depends on."""
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"gate"}),
        "serve": digest(sorted(recipe.model_fields_set)),
        "source": site.source.model.digest,
        "data": task.text.digest,
        "metric": task.metric.key(),
        "target": site.target.model_dump(mode="json"),
        "machine": site.machine.model_dump(mode="json"),
        "versions": _versions(),
        "plugins": installed(),
        "code": code_digest(),
    }


def _versions() -> dict[str, str]:
    """Versions of what passes and runtimes of language models name."""
    named: dict[str, str] = {}
    for plugin in (load(kind, name) for kind in ("language_passes", "language_runtimes") for name in names(kind)):
        named |= versions_in(plugin.tools, plugin.libraries)
    return dict(sorted(named.items()))


def _golden(choice: LanguageChoice, task: LanguageTask, progress: Progress) -> LanguageGolden:
    """What the chosen model makes of a few texts and chats, in the runtime that serves it."""
    progress.stage("asking the chosen one for golden answers", 1)
    chosen = choice.chosen
    assert chosen.scored is not None
    with LanguageProcess(chosen.candidate.runtime, chosen.scored) as process:
        golden = make_golden(process, task.text.golden, _GOLDEN_TOKENS)
    progress.step()
    return golden


def _models_bytes(store: Store) -> int:
    """What passes have left in the cache."""
    return store.sizes().get("models", (0, 0))[1]


def _manifest(
    recipe: Recipe,
    site: LanguageSite,
    task: LanguageTask,
    reference: LanguageTrial,
    choice: LanguageChoice,
    golden: LanguageGolden,
    command: str,
) -> LanguageManifest:
    chosen = choice.chosen
    assert chosen.model is not None
    disturbed = site.monitor.disturbed_by() if chosen.record.speed and chosen.record.speed.disturbed else ""
    return LanguageManifest(
        **stamp(),
        name=recipe.name,
        command=command,
        recipe=recipe.model_dump(mode="json"),
        target=site.target.model_dump(mode="json"),
        machine=site.machine,
        noise=site.monitor.summary(),
        disturbed=disturbed,
        versions={name: version for name, version in _versions().items() if version},
        source=site.source.record,
        data=task.text.description,
        chosen=chosen.record.name,
        runtime=chosen.record.runtime,
        runtime_fields=chosen.record.runtime_fields,
        format=chosen.model.format,
        context=site.context,
        why=choice.why,
        baseline="",
        trials=(reference, *(trial.record for trial in choice.trials)),
        golden=golden,
        warnings=(*chosen.record.remarks, *recorded(), *([f"{DISTURBED} ({disturbed})"] if disturbed else [])),
        files={},
    )


def _write(folder: Path, site: LanguageSite, manifest: LanguageManifest, choice: LanguageChoice) -> None:
    assert choice.chosen.model is not None
    served = served_model(manifest)
    serving = serving_of(site, served)
    write_language_artifact(
        folder,
        model=choice.chosen.model,
        manifest=manifest.model_copy(update={"recipe": {**manifest.recipe, "serve": serving}}),
        served=served,
        serving=serving,
        reports=render_files,
    )
