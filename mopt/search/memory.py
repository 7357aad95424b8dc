"""What may be open at once: the memory of sessions."""

from __future__ import annotations

__all__ = ["export_budget", "memory_budget", "memory_groups", "reject_oversized", "resident"]

from collections.abc import Iterable, Sequence

from mopt.errors import Rejection
from mopt.model.files import Model
from mopt.records.measurement import Machine
from mopt.search.trial import Trial

_SHARE_OF_MEMORY = 0.5
_LEAST_FOR_EXPORT = 1 << 30
_SHARE_FOR_EXPORT = 0.8
"""Of the machine, while nothing else is open: frameworks take several times the size of a model to export it."""
_SHARE_OF_MODEL = 1.9
"""Of a large model's size, so that with what a child grows by between two looks a build stays within twice that size."""
_LIBRARIES = 500e6
"""Bytes of this process and of those that only import libraries, which stay as long as a build does."""
_RESIDENT_FACTOR = 1.1
_RESIDENT_BASE = 150e6
"""Memory of a session: this share of its model's size, and these bytes for the runtime itself."""
_SMALL_MODEL = 2e9
"""Bytes up to which all sessions are kept open together, however large their sum is beside the model."""


def reject_oversized(memory: int, reference: Trial, trials: Sequence[Trial]) -> list[Trial]:
    """Take those out of the race whose session does not fit into memory beside the reference's, where it is measured."""

    def checked(trial: Trial) -> Trial:
        both = resident(reference) + resident(trial)
        if not trial.alive or both <= memory:
            return trial
        return trial.reject(
            Rejection.MEMORY,
            f"would take {both / 1e9:.1f} GB of memory beside the reference, and {memory / 1e9:.1f} GB are allowed",
        )

    return [checked(trial) for trial in trials]


def memory_groups(memory: int, reference: Trial, trials: Sequence[Trial]) -> Iterable[list[Trial]]:
    """As many candidates at a time as fit into memory beside the reference; each of them fits alone."""
    budget = memory - resident(reference)
    group: list[Trial] = []
    for trial in trials:
        if group and sum(map(resident, group)) + resident(trial) > budget:
            yield group
            group = []
        group.append(trial)
    if group:
        yield group


def memory_budget(limit: int | None, machine: Machine, source: Model) -> int:
    """Bytes that a build may take: what the user said, or half of the machine; for a large model just under twice its size."""
    if limit:
        return limit
    half = int(machine.memory_bytes * _SHARE_OF_MEMORY)
    return half if source.size <= _SMALL_MODEL else min(half, int(_SHARE_OF_MODEL * source.size - _LIBRARIES))


def export_budget(limit: int | None, machine: Machine) -> int:
    """Bytes that exporting a model and checking the export may take: what the user said, or most of the machine.

    Without an export there is nothing to ship, so what the libraries themselves need is always allowed.
    """
    return max(limit, _LEAST_FOR_EXPORT) if limit else int(machine.memory_bytes * _SHARE_FOR_EXPORT)


def resident(trial: Trial) -> float:
    """Bytes that a session of it will take, about."""
    return _RESIDENT_FACTOR * (trial.record.size_bytes or 0) + _RESIDENT_BASE
