"""What a recipe asks of a search: where, with which candidates, and how long it will take."""

from __future__ import annotations

__all__ = [
    "Site",
    "candidates_of",
    "check_recipe",
    "expectation_text",
    "expected_seconds_by_effort",
    "task_of",
    "threads_of",
]

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Literal

from mopt.artifacts.serving._base import ServingSystem, make_system
from mopt.capacity.arrivals import parse_arrivals
from mopt.capacity.simulate import check_installed
from mopt.errors import CandidateRejectedError, MissingEnvironmentError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.tolerance import Tolerance
from mopt.exporters._export import find_exporter
from mopt.model.samples import batch_feeds
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.profiles.target import Target, check_measurable, load_target
from mopt.recipe import EffortName, Recipe
from mopt.records import units
from mopt.records.measurement import Machine
from mopt.runtimes._base import SessionProcess
from mopt.search.candidates import SpaceInputs, graph_traits, reference_candidate, search_space
from mopt.search.effort import EFFORTS, Effort
from mopt.search.from_recipe import check_search
from mopt.search.outlook import expected_by_effort
from mopt.search.quality import FEW_SAMPLES
from mopt.search.served import as_served
from mopt.search.task import CompileTask, QualityTask, SearchTask, SpeedTask
from mopt.search.trial import Candidate
from mopt.search.without_device import check_buildable, engine_pass, runs_here
from mopt.storage._base import is_url
from mopt.system.environments import find_environment
from mopt.system.plugins import load
from mopt.system.store import Store
from mopt.workflows._sources import PreparedModel, Source

_GLANCE_SECONDS = 0.2
"""For which the reference is run to tell how long a build will take."""


@dataclasses.dataclass(frozen=True)
class Site:
    """Where it is built, and where it will run."""

    machine: Machine
    target: Target
    monitor: NoiseMonitor


def check_recipe(recipe: Recipe) -> Site:
    """Refuse what cannot be built, before any work.

    Raises:
        UserError: When something that the recipe names is not there, or not for this machine.
    """
    if recipe.traffic.rate is not None or recipe.traffic.p99 is not None:
        check_installed()
    machine = detect()
    target = load_target(recipe.target, machine)
    check_measurable(target, machine)
    check_buildable(target)
    if not is_url(recipe.model):  # that is known when it has been fetched
        find_exporter(recipe.model, trust_pickle=recipe.trust_pickle)
    for system in recipe.serve:
        _check_environments(make_system(system))
    check_search(recipe.search, target)
    _objective(recipe)
    Tolerance.parse(recipe.tolerance)
    parse_arrivals(recipe.traffic.arrivals)
    return Site(machine, target, NoiseMonitor())


def _check_environments(system: ServingSystem) -> None:
    """Refuse a serving system when each runtime that it runs lives in an environment that is not installed."""
    tools = [load("runtimes", name).tools for name in system.settable]
    if tools and all(name and find_environment(name) is None for name in tools):
        raise MissingEnvironmentError(tools[0])


def threads_of(recipe: Recipe, machine: Machine) -> int:
    """Threads of one inference: as the recipe says, or one for each core."""
    return recipe.search.threads or machine.cores


def candidates_of(recipe: Recipe, site: Site, prepared: PreparedModel) -> list[Candidate]:
    """Return what a build tries, with the reason why not for what it does not."""
    options, gpu = recipe.search, site.target.gpu
    engine = (
        engine_pass(gpu, recipe.engine, prepared.signature, prepared.calibration, options.max_batch)
        if gpu is not None
        else None
    )
    traits = graph_traits(prepared.simplified.model)
    inputs = SpaceInputs(
        traits,
        site.target,
        prepared.calibration,
        threads_of(recipe, site.machine),
        engine,
        signature=prepared.signature,
    )
    serving = [make_system(name) for name in recipe.serve]
    return search_space(inputs, options.candidates, recipe.objective, options.candidate, serving, options.effort)


def task_of(recipe: Recipe, site: Site, source: Source, prepared: PreparedModel, metric: Metric, store: Store) -> SearchTask:
    """Return what a search is asked."""
    options = recipe.search
    evaluation = source.split.evaluation.first(EFFORTS[options.effort].evaluation)
    return SearchTask(
        source=prepared.validated.model,
        calibration=prepared.calibration,
        compiling=CompileTask(prepared.simplified.model, prepared.simplified.records, store, prepared.memory),
        quality=QualityTask(
            signature=prepared.signature,
            samples=evaluation,
            metric=metric,
            tolerance=Tolerance.parse(recipe.tolerance),
            confidence=options.confidence,
            inconclusive=options.inconclusive,
            machine=site.machine,
            store=store,
        ),
        speed=SpeedTask(
            signature=prepared.signature,
            samples=evaluation,
            objective=_objective(recipe),
            latency_limit_ms=recipe.traffic.p99,
            max_batch=options.max_batch,
            effort=_effort(recipe),
            memory=prepared.memory,
            monitor=site.monitor,
            ships_reference=_is_served(reference_candidate(threads_of(recipe, site.machine)), recipe),
        ),
        time_budget_s=options.time_budget / 1e3,
    )


def _objective(recipe: Recipe) -> Literal["latency", "throughput", "size"]:
    if recipe.objective == "decode" or recipe.objective == "prefill":
        raise UserError(f"the objective {recipe.objective} is for language models", "choose latency, throughput or size")
    return recipe.objective


def _is_served(candidate: Candidate, recipe: Recipe) -> bool:
    """Whether all serving systems of a recipe run a candidate as it is."""
    systems = [make_system(name) for name in recipe.serve]
    return as_served(candidate, systems, ()).refused is None


def _effort(recipe: Recipe) -> Effort:
    effort, rounds = EFFORTS[recipe.search.effort], recipe.search.rounds
    return effort if rounds is None else dataclasses.replace(effort, rounds=rounds)


def expected_seconds_by_effort(recipe: Recipe, site: Site, source: Source, prepared: PreparedModel) -> dict[EffortName, float]:
    """Return the seconds of a build at each effort, as far as they can be foreseen; none for a device that is not here."""
    gpu = site.target.gpu
    if gpu is not None and not runs_here(gpu):
        return {}
    reference = reference_candidate(threads_of(recipe, site.machine))
    feeds = batch_feeds(prepared.signature, source.split.evaluation, prepared.signature.batch_size or 1)
    try:
        with SessionProcess(reference.runtime, prepared.validated.model) as session:
            latencies = session.time(feeds, _GLANCE_SECONDS, 2)
    except CandidateRejectedError:  # running the reference over the samples says what is wrong with which of them
        return {}
    tried = {name: candidates_of(_with_effort(recipe, name), site, prepared) for name in EFFORTS}
    return expected_by_effort(
        statistics.median(latencies) / 1e3,
        {name: sum(candidate.refused is None for candidate in candidates) for name, candidates in tried.items()},
        samples=len(source.split.evaluation),
        few=FEW_SAMPLES,
        calibration=len(source.split.calibration),
        sizes={name: effort.batch_sizes(prepared.signature, recipe.search.max_batch) for name, effort in EFFORTS.items()},
        screening_batch=prepared.signature.batch_size or 1,
    )


def _with_effort(recipe: Recipe, name: EffortName) -> Recipe:
    return recipe.model_copy(update={"search": recipe.search.model_copy(update={"effort": name})})


def expectation_text(recipe: Recipe, expected: Mapping[EffortName, float]) -> str:
    """Say how long a build will take, and how long it would at another effort; nothing where that is not known."""
    if not expected:
        return ""
    others = [f"{name} {units.about(seconds)}" for name, seconds in expected.items() if name != recipe.search.effort]
    return f"{recipe.search.effort} effort, about {units.about(expected[recipe.search.effort])}; {', '.join(others)}"
