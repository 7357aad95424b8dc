"""Which candidates are worth trying for a language model: formats and algorithms for the runtimes that the target has."""

from __future__ import annotations

__all__ = ["language_candidates"]

import dataclasses
import fnmatch
from collections.abc import Sequence

from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.errors import Rejection, UserError
from mopt.model.quantization import LayerQuantization
from mopt.passes.language._blockwise import BlockwisePass
from mopt.recipe import EffortName
from mopt.records.trial import Outcome
from mopt.search.effort import EFFORTS
from mopt.search.language.spaces._base import LanguageSpace, LanguageSpaceInputs
from mopt.search.language.trial import LanguageCandidate
from mopt.system import plugins
from mopt.system.environments import find_environment


def language_candidates(inputs: LanguageSpaceInputs, patterns: Sequence[str], effort: EffortName) -> list[LanguageCandidate]:
    """Return the candidates; what cannot be tried is among them, with the reason.

    Raises:
        UserError: When a pattern names no candidate, or no format is served by all systems that were named.
    """
    spaces: list[LanguageSpace] = [plugins.load("language_spaces", name)() for name in plugins.names("language_spaces")]
    candidates = [candidate for space in spaces for candidate in space.candidates(inputs)]
    names = [candidate.name for candidate in candidates]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"no candidate is called {pattern}", plugins.nearest(pattern, names))
    served = _check_served(candidates, inputs.systems)
    for candidate in served:
        candidate.check(inputs.format)
    levels = list(EFFORTS)
    named = [pattern for pattern in patterns if pattern != "*"]
    return [
        _available(_accepted(candidate, inputs))
        for candidate in served
        if (named or levels.index(candidate.effort) <= levels.index(effort))
        and any(fnmatch.fnmatch(candidate.name, pattern) for pattern in named or patterns)
    ]


def _check_served(candidates: Sequence[LanguageCandidate], systems: Sequence[LanguageServing]) -> list[LanguageCandidate]:
    """Those that every named system takes.

    Raises:
        UserError: When there are none.
    """
    served = [
        candidate
        for candidate in candidates
        if all(candidate.runtime.name in system.runtimes and candidate.method in system.methods for system in systems)
    ]
    if not served:
        names = ", ".join(system.name for system in systems)
        raise UserError(f"no format is served by all of {names}", "build once for each")
    return served


def _accepted(candidate: LanguageCandidate, inputs: LanguageSpaceInputs) -> LanguageCandidate:
    """The same, refused where a named system does not take the architecture or the scheme."""
    served = ServedLanguageModel(
        name="model",
        architecture=inputs.architecture,
        format=candidate.runtime.formats[0],
        method=candidate.method,
        scheme=_scheme(candidate),
        context=inputs.context,
        threads=inputs.threads,
        kv_cache=inputs.options.kv_cache,
        chat=inputs.chat,
        group_size=_group_size(candidate),
        detail=candidate.detail,
    )
    for system in inputs.systems:
        if reason := system.refuses(served):
            return _refused(candidate, Rejection.UNSUPPORTED, f"{system.name}: {reason}")
    return candidate


def _scheme(candidate: LanguageCandidate) -> LayerQuantization | None:
    for step in candidate.passes:
        if isinstance(step, BlockwisePass):
            return LayerQuantization(weights=step.weights, activations=step.activations)
    return None


def _group_size(candidate: LanguageCandidate) -> int:
    scheme = _scheme(candidate)
    return max(0, scheme.weights.group_size) if scheme else 0


def _available(candidate: LanguageCandidate) -> LanguageCandidate:
    """The same, skipped where an environment that it needs is not installed."""
    if candidate.refused is not None:
        return candidate
    steps = (*candidate.passes, *(candidate.scored_passes or ()))
    needed = dict.fromkeys([*(step.tools for step in steps), candidate.runtime.tools])
    missing = [name for name in needed if name and find_environment(name) is None]
    if missing:
        return _refused(
            candidate, Rejection.SKIPPED, f"{' and '.join(missing)} not installed; mopt tools install {' '.join(missing)}"
        )
    return candidate


def _refused(candidate: LanguageCandidate, rejection: Rejection, reason: str) -> LanguageCandidate:
    return dataclasses.replace(candidate, refused=Outcome(rejection=rejection, reason=reason))
