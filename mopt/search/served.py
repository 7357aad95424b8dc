"""Candidates as serving systems run them: what these cannot be told is left to the runtime, before anything is judged."""

from __future__ import annotations

__all__ = ["as_served", "served_otherwise", "without_twins"]

import dataclasses
from collections.abc import Collection, Iterator, Sequence

from mopt.artifacts.serving._base import ServingSystem
from mopt.errors import Rejection
from mopt.model.signature import Signature
from mopt.records.trial import Outcome
from mopt.runtimes._base import Runtime
from mopt.search.mixed_precision import quantizing_pass
from mopt.search.trial import Candidate


def as_served(
    candidate: Candidate,
    systems: Sequence[ServingSystem],
    isa: Sequence[str],
    requested: Collection[str] = (),
    *,
    signature: Signature | None = None,
) -> Candidate:
    """Return a candidate with the options that all the systems can set; the others are left to the runtime itself.

    Where that changes what is computed on CPUs of these instruction sets, a candidate that quantizes is judged as it will be
    served: what it leaves in float was never its point. One that does not quantize is nothing but its precision, so it is
    refused, and so is one whose recipe asks for the option.

    Args:
        candidate: As its family or the recipe makes it.
        systems: That will run it; where one does not serve its runtime, the candidate is refused.
        isa: Instruction sets of the target.
        requested: Options that the recipe gives its runtime.
        signature: Of the model, where it is known: what a system decides itself depends on it.
    """
    runtime = candidate.runtime
    for system in systems:
        if runtime.name not in system.settable:
            return _refuse(candidate, f"{system.name} does not serve {runtime.name}")
        runtime = _as_forced(runtime, system, signature)
        for option in _not_settable(system, runtime):
            reason, left = _left_out(runtime, option, system, isa)
            if left is None or (reason and (option in requested or quantizing_pass(candidate.passes) is None)):
                return _refuse(candidate, reason)
            runtime = left
    return dataclasses.replace(candidate, runtime=runtime)


def served_otherwise(runtime: Runtime, system: ServingSystem, isa: Sequence[str], signature: Signature) -> str:
    """Return why a system would run something else than what was judged with this runtime; nothing when it would not.

    Args:
        runtime: As it was judged.
        system: That is to run it, and serves this runtime.
        isa: Instruction sets of the machine that serves.
        signature: Of the model.
    """
    reasons = (_left_out(runtime, option, system, isa)[0] for option in _not_settable(system, runtime))
    forced = (
        f"{system.name} runs it with {option} = {value}, and {getattr(runtime, option)} was judged"
        for option, value in system.forced(runtime.name, signature).items()
        if getattr(runtime, option) != value
    )
    return next(filter(None, (*reasons, *forced)), "")


def without_twins(candidates: Sequence[Candidate], isa: Sequence[str]) -> list[Candidate]:
    """Refuse each candidate that computes on CPUs of these instruction sets what an earlier one does."""
    checked: list[Candidate] = []
    for candidate in candidates:
        twin = next((earlier for earlier in checked if earlier.refused is None and _alike(earlier, candidate, isa)), None)
        if twin is not None and candidate.refused is None:
            outcome = Outcome(rejection=Rejection.UNCHANGED, reason=f"on this CPU the same as {twin.name}")
            candidate = dataclasses.replace(candidate, refused=outcome)
        checked.append(candidate)
    return checked


def _as_forced(runtime: Runtime, system: ServingSystem, signature: Signature | None) -> Runtime:
    """The runtime as a system runs it whatever is asked for."""
    return runtime if signature is None else dataclasses.replace(runtime, **system.forced(runtime.name, signature))


def _left_out(runtime: Runtime, option: str, system: ServingSystem, isa: Sequence[str]) -> tuple[str, Runtime | None]:
    """The runtime without an option that a system cannot set, and why that computes something else; None where it needs one."""
    value = getattr(runtime, option)
    reason, advice = f"{system.name} cannot set {option} = {value} for {runtime.name}", _otherwise(system, runtime)
    if option not in runtime.unset:
        return f"{reason}{advice}", None
    left = dataclasses.replace(runtime, **{option: runtime.unset[option]})
    asked, served = (getattr(each.resolved(isa), option) for each in (runtime, left))
    if asked == served:
        return "", left
    taken = "chooses for itself" if served == runtime.unset[option] else f"takes {served}"
    return f"{reason}, which {taken} on this CPU{advice}", left


def _not_settable(system: ServingSystem, runtime: Runtime) -> Iterator[str]:
    """The options that a system would have to set, and cannot."""
    settable = system.settable[runtime.name]
    for field in dataclasses.fields(runtime):
        value = getattr(runtime, field.name)
        nothing_asked = field.name in runtime.unset and value == runtime.unset[field.name]
        if not nothing_asked and not settable.takes(field.name, value):
            yield field.name


def _otherwise(system: ServingSystem, runtime: Runtime) -> str:
    advice = system.settable[runtime.name].otherwise
    return f"; {advice}" if advice else ""


def _alike(first: Candidate, second: Candidate, isa: Sequence[str]) -> bool:
    return first.passes == second.passes and first.runtime.resolved(isa) == second.runtime.resolved(isa)


def _refuse(candidate: Candidate, reason: str) -> Candidate:
    return dataclasses.replace(candidate, refused=Outcome(rejection=Rejection.UNSUPPORTED, reason=reason))
