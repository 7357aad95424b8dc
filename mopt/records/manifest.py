"""The records that a build leaves: what was asked, what was tried, what was measured, what was chosen and why.

They are one schema for memory and disk. ``manifest.json`` is :class:`Manifest`; its version changes when an older
reader could misread it.
"""

from __future__ import annotations

__all__ = [
    "BatchProfile",
    "Batching",
    "Estimate",
    "Export",
    "Golden",
    "LayerCost",
    "Layout",
    "Machine",
    "Manifest",
    "OperatorCost",
    "OperatorProfile",
    "Outcome",
    "PassRecord",
    "Profile",
    "Quality",
    "ServingProfile",
    "Setting",
    "Trial",
]

from pathlib import Path
from typing import Any, Literal

import pydantic

from mopt.errors import Rejection, UserError
from mopt.model.files import Signature

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"


class _Record(pydantic.BaseModel):
    # A signal-to-noise ratio may be infinite, and JSON has no number for that.
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Estimate(_Record):
    """A figure with its interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    count: int


class Quality(_Record):
    """A candidate against the reference on the same samples.

    ``difference`` is candidate minus reference in units of the metric, turned so that negative is worse; ``bound`` is
    the one-sided lower confidence bound of it, and ``allowed`` the most negative value that the tolerance admits.
    """

    metric: str
    value: float
    reference: float
    difference: float
    bound: float
    upper: float | None = None
    """The one-sided upper bound, where it was asked for."""
    allowed: float
    confidence: float
    count: int
    groups: int | None = None
    """How many independent groups the samples form, where they are not independent themselves."""
    verdict: Literal["pass", "fail", "inconclusive"]
    samples_to_decide: int | None = None
    """About how many samples would turn ``inconclusive`` into an answer, if what was seen is the truth."""
    fidelity: dict[str, float] = {}
    """Agreement with the reference by output: cosine similarity, signal to noise in dB, and so on."""


class BatchProfile(_Record):
    """Latency at one batch size, in milliseconds."""

    batch: int
    p50: Estimate
    p90: Estimate
    p99: Estimate
    mean: float
    samples: tuple[float, ...]
    """A thinned-out copy of what was measured, in ms, for the batching model and the charts."""
    throughput: float
    """Samples per second of one instance that is never idle."""
    ratio: Estimate | None = None
    """Speed-up over the reference at the same batch size, interleaved with it; None for what was not interleaved."""


class Profile(_Record):
    """How fast a candidate is on the machine that is named in the manifest."""

    threads: int
    load_ms: float
    first_ms: float
    """The first inference after loading."""
    peak_bytes: int
    """Largest resident memory of the process that ran it, runtime included."""
    batches: tuple[BatchProfile, ...]
    depth: Literal["quick", "full"]
    limit: str
    """Why no larger batch was measured."""

    def at(self, batch: int) -> BatchProfile:
        """Return the profile of a batch size that was measured."""
        return next(entry for entry in self.batches if entry.batch == batch)


class PassRecord(_Record):
    """What one pass did."""

    name: str
    fields: dict[str, Any]
    modified: bool
    cached: bool
    seconds: float
    detail: dict[str, Any] = {}


class Outcome(_Record):
    """Why a trial was not chosen."""

    rejection: Rejection
    reason: str


class Trial(_Record):
    """A candidate with what was measured of it."""

    name: str
    runtime: str
    runtime_fields: dict[str, Any]
    passes: tuple[PassRecord, ...] = ()
    model_form: str | None = None
    model_digest: str | None = None
    size_bytes: int | None = None
    evidence: dict[str, Any] = {}
    """What the runtime really executes: operator counts by type of arithmetic."""
    quality: Quality | None = None
    profile: Profile | None = None
    outcome: Outcome | None = None
    """None for the chosen one and for the reference."""


class Machine(_Record):
    """Where it was measured."""

    cpu: str
    isa: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    python: str


class OperatorCost(_Record):
    """All operators of one type and one arithmetic in an inference, as the runtime executed them."""

    kind: str
    """The runtime's name of the type, such as ``Conv`` or ``FusedMatMul``."""
    arithmetic: Literal["fp32", "bf16", "fp16", "int8"]
    nodes: int
    flops: float
    """Multiplications and additions; 0 for operators that only move or look up data."""
    bytes: float
    """What must be moved at least once: inputs, weights and outputs."""
    ms: float
    """Time of all of them together."""


class LayerCost(_Record):
    """A node of the runtime's graph."""

    name: str
    """Its name; those of the model's nodes that were fused into it, where the runtime tells."""
    kind: str
    arithmetic: Literal["fp32", "bf16", "fp16", "int8"]
    ms: float


class OperatorProfile(_Record):
    """Where the time of an inference goes, at one batch size and number of threads."""

    batch: int
    threads: int
    operators: tuple[OperatorCost, ...]
    total_ms: float
    """Median latency of the whole inference without the profiler, which is more than the sum of the operators."""


class Layout(_Record):
    """How a replica divides its cores: instances side by side, each with its threads."""

    instances: int
    threads: int
    alone: tuple[BatchProfile, ...]
    """One instance while the others rest."""
    together: tuple[BatchProfile, ...]
    """Each instance while all of them work; the same as ``alone`` for a single one."""
    pace: tuple[float, ...] = (1.0,)
    """How much longer everything took from one slot of time to the next while it was measured; the harmonic mean is 1."""
    pace_ms: float | None = None
    """Length of a slot; None where the machine was steady."""


class ServingProfile(_Record):
    """What a replica of this machine can do, from which every traffic is predicted."""

    machine: Machine
    noise: dict[str, float]
    """Load, stolen time, spread of the clock frequency and of the pace (see Layout) while it was measured."""
    batches: bool
    """Whether requests can be put together."""
    layouts: tuple[Layout, ...]
    load_ms: float
    first_ms: float
    warm_ms: float
    """Start of a replica: loading, the first inference, and all inferences until they are steady, one after the other."""
    memory: dict[int, int]
    """Peak resident bytes of an instance by the largest batch that it has run."""
    padding: float | None = None
    """Share of the work that is padding when requests of the data's own shapes are put together; None where all are alike."""
    operators: tuple[OperatorProfile, ...] = ()

    def layout(self, instances: int, threads: int) -> Layout:
        """Return a layout that was measured."""
        return next(one for one in self.layouts if (one.instances, one.threads) == (instances, threads))


class Export(_Record):
    """How the source became ONNX, and how far the two agree on real samples."""

    source: str
    source_digest: str
    exporter: str
    opset: int
    largest_difference: float
    """Largest absolute difference between source framework and export, relative to the largest output."""
    samples: int
    detail: dict[str, Any] = {}


class Setting(_Record):
    """A way to serve, and what it would take to hold the traffic with it."""

    max_batch: int
    queue_delay_us: int
    instances: int
    threads: int
    replicas: int | None
    """None when no number of replicas holds the p99."""
    p99_ms: float | None
    load: float | None
    mean_batch: float | None
    binding: str
    """What decided the number of replicas: the load, the p99, or the service time alone."""


class Batching(_Record):
    """The settings that the artifact should be served with."""

    max_batch: int
    queue_delay_us: int
    instances: int
    replicas: int
    predicted_p99_ms: float | None
    load: float | None
    """Arrival rate over capacity of all replicas, 0 to 1."""
    rate: float | None
    """Requests per second that were asked for."""
    binding: str
    """What decided: the p99, the load, memory, or that no traffic was given."""
    threads: int | None = None
    """Threads of each instance; None for those that the runtime was measured with."""
    p99: Estimate | None = None
    """The predicted p99 with the interval of the prediction itself, not of the measurement behind it."""
    mean_batch: float | None = None
    arrivals: str = ""
    """How requests were assumed to arrive."""
    spare: int = 0
    """Replicas among ``replicas`` that may be lost while the others still hold the traffic."""
    headroom: float | None = None
    """The largest rate that all replicas hold within the p99, over the rate that was asked for."""
    burst_p99_ms: float | None = None
    """The p99 when the same requests come in bursts of three times the rate, a second long, a tenth of the time."""
    most_per_replica: float | None = None
    """The largest rate of one replica that holds the p99, in requests per second."""
    alternatives: tuple[Setting, ...] = ()
    rule_of_thumb: Setting | None = None
    """What the usual advice would take, 32 requests or 10 ms, for comparison."""


class Golden(_Record):
    """Inputs and the outputs of the shipped model, for ``mopt verify``."""

    count: int
    tolerance: dict[str, float]
    """Largest absolute difference by output that another machine may show."""


class Manifest(_Record):
    """Everything that is needed to explain an artifact and to build it again."""

    schema_version: Literal[1] = 1
    name: str
    deployable: bool
    not_deployable_because: str = ""
    created: str
    mopt_version: str
    command: str
    recipe: dict[str, Any]
    target: dict[str, Any]
    machine: Machine
    noise: dict[str, float]
    """Load, stolen time and spread of the clock frequency during the build."""
    versions: dict[str, str]
    source: Export
    simplified: str
    """What the simplifiers did, or why they were left out."""
    signature: Signature
    data: dict[str, Any]
    chosen: str
    runtime: str
    runtime_fields: dict[str, Any]
    form: str
    why: str
    control: Estimate | None
    """The reference against itself, measured like a candidate; far from 1 means that the machine was too noisy."""
    trials: tuple[Trial, ...]
    batching: Batching
    serving_profile: ServingProfile | None = None
    """The chosen model as a server runs it: layouts, cold start, memory, operators; None for an artifact of an older mopt."""
    golden: Golden
    files: dict[str, str]
    """SHA-256 of every other file of the artifact, by relative path."""

    @pydantic.model_validator(mode="after")
    def _chosen_exists(self) -> Manifest:
        if self.chosen not in {trial.name for trial in self.trials}:
            raise ValueError(f"the chosen candidate {self.chosen} is not among the trials")
        return self

    @property
    def winner(self) -> Trial:
        """The trial that is shipped."""
        return next(trial for trial in self.trials if trial.name == self.chosen)

    @property
    def reference(self) -> Trial:
        """The trial that all others were compared with: the first."""
        return self.trials[0]


def read_manifest(artifact: Path) -> Manifest:
    """Read and check ``manifest.json`` of an artifact folder.

    Raises:
        UserError: When it is not an artifact, is damaged, or was written by a newer mopt.
    """
    path = artifact / FILE_NAME
    if not path.is_file():
        raise UserError(f"{artifact} is not an artifact: it has no {FILE_NAME}", "give the folder that mopt build wrote")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged or of another version: {where}: {first['msg']}", "build it again") from None
