"""The records that a build leaves: what was asked, what was tried, what was measured, what was chosen and why.

They are one schema for memory and disk. ``manifest.json`` is :class:`Manifest`; its version changes when an older
reader could misread it.
"""

from __future__ import annotations

__all__ = ["BaseManifest", "Golden", "Manifest"]

from typing import Any, Literal, Self

import pydantic

from mopt.model.signature import Signature
from mopt.records._base import Record, StampedRecord
from mopt.records.measurement import Estimate, Machine
from mopt.records.serving import Batching, ServingProfile
from mopt.records.trial import ExportRecord, TrialRecord

SCHEMA_VERSION = 1


class Golden(Record):
    """Inputs and the outputs of the shipped model, for ``mopt verify``."""

    count: int
    tolerance: dict[str, float]
    """Largest absolute difference by output that another machine may show."""
    random: tuple[str, ...] = ()
    """Outputs that differ from run to run on the same inputs: they are in no sample, and nothing is compared with them."""


class BaseManifest(StampedRecord):
    """What is said of an artifact whatever its model is."""

    schema_version: Literal[1] = 1
    name: str
    deployable: bool
    not_deployable_because: str = ""
    command: str
    recipe: dict[str, Any]
    target: dict[str, Any]
    machine: Machine
    noise: dict[str, float]
    """Load, stolen time and spread of the clock frequency during the build; turns that were timed, and disturbed."""
    disturbed: str = ""
    """What took the time, where figures had to be measured beside other work; then no speed is proven."""
    versions: dict[str, str]
    data: dict[str, Any]
    chosen: str
    runtime: str
    runtime_fields: dict[str, Any]
    format: str
    why: str
    trials: tuple[TrialRecord, ...]
    """The reference, which the quality of all others is compared with, first."""
    warnings: tuple[str, ...] = ()
    """What hung during the build: measured again in a fresh process, or lost, and what that means."""
    stage_seconds: dict[str, float] = {}
    """What each stage of the build took, up to writing the artifact; what came from the cache took none."""
    files: dict[str, str]
    """SHA-256 of every other file of the artifact, by relative path."""

    @pydantic.model_validator(mode="after")
    def _chosen_exists(self) -> Self:
        if self.chosen not in {trial.name for trial in self.trials}:
            raise ValueError(f"the chosen candidate {self.chosen} is not among the trials")
        return self

    @property
    def winner(self) -> TrialRecord:
        """The trial that is shipped."""
        return next(trial for trial in self.trials if trial.name == self.chosen)

    @property
    def reference(self) -> TrialRecord:
        """The trial that all others were compared with."""
        return self.trials[0]


class Manifest(BaseManifest):
    """Everything that is needed to explain an artifact and to build it again."""

    source: ExportRecord
    simplified: str
    """What the simplifiers did, or why they were left out."""
    signature: Signature
    control: Estimate | None
    """The reference against itself, measured like a candidate; far from 1 means that the machine was too noisy."""
    batching: Batching
    serving_profile: ServingProfile | None = None
    """The chosen model as a server runs it: instance groups, cold start, memory, operators; None where nothing was measured."""
    golden: Golden
