"""Candidates and simplifying passes that a recipe names, with their options checked before anything runs."""

from __future__ import annotations

__all__ = ["check_search", "recipe_candidates", "search_checks", "simplifying_passes"]

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.errors import UserError
from mopt.model.formats import ONNX
from mopt.model.samples import Samples
from mopt.passes._base import Pass
from mopt.profiles.target import Target
from mopt.recipe import CandidateSpec, PassSpec, Search
from mopt.runtimes._base import Runtime
from mopt.search.spaces._base import GraphTraits, SpaceInputs
from mopt.search.trial import REFERENCE, Candidate
from mopt.system import plugins
from mopt.system.options import check_options, fields_of_type

_NO_SAMPLES = Samples(Path(), "", 0)


def check_search(options: Search, target: Target) -> None:
    """Check what a recipe says about candidates and simplifying, before there is a model.

    Raises:
        UserError: When a pass, a runtime or an option of one does not exist, is of another type, or does not fit the rest.
    """
    for _, check in search_checks(options, target):
        check()


def search_checks(options: Search, target: Target) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the same check in parts: the key that each is about, and what raises when it is wrong."""
    inputs = SpaceInputs(GraphTraits(0, 0, 0, 0, 0), target, _NO_SAMPLES, 1)
    yield "search.simplify", functools.partial(simplifying_passes, options.simplify, _NO_SAMPLES)
    yield "search.candidate", functools.partial(_check_names, options.candidate)
    for spec in options.candidate:
        yield "search.candidate", functools.partial(_candidate, spec, inputs, {})


def recipe_candidates(
    specs: Sequence[CandidateSpec], inputs: SpaceInputs, defaults: Mapping[str, Mapping[str, Any]]
) -> list[Candidate]:
    """Make the candidates of a recipe.

    Args:
        specs: What the recipe says.
        inputs: Calibration samples and threads are filled in from here.
        defaults: Options by name of a pass or runtime, for those that the recipe leaves open.

    Raises:
        UserError: When one cannot be made.
    """
    _check_names(specs)
    return [_candidate(spec, inputs, defaults) for spec in specs]


def _check_names(specs: Sequence[CandidateSpec]) -> None:
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1 or name == REFERENCE:
            raise UserError(f"search.candidate: the name {name} is taken", "give each candidate a name of its own")


def _candidate(spec: CandidateSpec, inputs: SpaceInputs, defaults: Mapping[str, Mapping[str, Any]]) -> Candidate:
    where = f"candidate {spec.name}"
    runtime_class, target = _load("runtimes", Runtime, spec.runtime, where), inputs.target
    if not runtime_class.supports(target.compute_device, target.isa):
        raise UserError(
            f"{where}: {spec.runtime} does not run on target {target.name}, a {target.compute_device.upper()}",
            f"leave it out with search.candidates, or choose another runtime than {spec.runtime}",
        )
    runtime = _make(runtime_class, spec.runtime_options, inputs, defaults.get(spec.runtime, {}), f"{where}: {spec.runtime}")
    steps = []
    for step in spec.passes:
        kind = _load("passes", Pass, step.name, where)
        steps.append(_make(kind, step.options, inputs, defaults.get(step.name, {}), f"{where}: {step.name}"))
    try:
        return Candidate(spec.name, tuple(steps), runtime)
    except ValueError as error:
        raise UserError(
            f"{where}: {error}", "the first pass reads ONNX, and the last one makes what the runtime loads"
        ) from None


def simplifying_passes(steps: Sequence[Sequence[PassSpec]], calibration: Samples) -> list[list[Pass]]:
    """Make the passes that simplify every model; of each list the first that fits is taken.

    Raises:
        UserError: When there is no such pass or option, or the pass makes anything but ONNX of ONNX.
    """
    inputs = _SimplifyInputs(calibration)
    made_steps = []
    for alternatives in steps:
        made = []
        for spec in alternatives:
            what = f"search.simplify: {spec.name}"
            step = _make(_load("passes", Pass, spec.name, "search.simplify"), spec.options, inputs, {}, what)
            if (step.takes, step.makes) != (ONNX.name, ONNX.name):
                raise UserError(f"{what} makes {step.makes} of {step.takes}", "every candidate starts from ONNX")
            made.append(step)
        made_steps.append(made)
    return made_steps


@dataclasses.dataclass(frozen=True)
class _SimplifyInputs:
    """What is filled in for a pass that simplifies."""

    calibration: Samples
    threads: int = 1


def _load(kind: str, base: type[Any], name: str, where: str) -> type[Any]:
    try:
        plugin = plugins.load(kind, name)
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from None
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise UserError(f"{where}: {name} is no {base.__name__}", "the package that it is from is to be mended")
    return plugin


def _make(
    plugin: type[Any],
    options: Mapping[str, Any],
    inputs: SpaceInputs | _SimplifyInputs,
    defaults: Mapping[str, Any],
    what: str,
) -> Any:
    given = check_options(plugin, options, what, Samples)
    required = {field.name for field in dataclasses.fields(plugin) if _is_required(field)}
    values = {
        **({"threads": inputs.threads} if "threads" in required else {}),
        **dict.fromkeys(fields_of_type(plugin, Samples), inputs.calibration),
        **defaults,
        **given,
    }
    if missing := sorted(required - values.keys()):
        raise UserError(f"{what} needs the option {missing[0]}", "write it as { name = ..., option = value }")
    return plugin(**values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
