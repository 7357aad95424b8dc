"""Find the fastest candidate that is still right: a quick look at all, depth for the promising."""

from __future__ import annotations

__all__ = ["Found", "Question", "search"]

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from mopt.artifacts.manifest import Estimate, Machine, Outcome, PassRecord, Profile, Quality, Trial
from mopt.artifacts.model import Feed, Model, Signature
from mopt.artifacts.samples import Samples
from mopt.artifacts.store import Store
from mopt.errors import CandidateRejectedError, MissingDependencyError, NotApplicableError, Rejection
from mopt.evaluators._metric import Metric
from mopt.evaluators.gate import judge
from mopt.evaluators.tolerance import Tolerance
from mopt.mixed import mixed_variants
from mopt.passes._base import describe_fields
from mopt.plan import Candidate
from mopt.profiles.measure import TURN_SECONDS, TurnLog, interleave, ratio, summarize
from mopt.progress import Progress
from mopt.recipe import Search
from mopt.runtimes._base import SessionProcess
from mopt.trials import Compiled, compile_candidate, evaluate, record_outputs, score

REFERENCE = "reference"
CONTROL = "reference again"
_FINALISTS = 3
_FEW_SAMPLES = 256
_QUICK_ROUNDS = 7
_NARROW = 0.04
_STEADY_CONTROL = (0.95, 1.05)
_LONGEST_TURN = 0.25
_SIZE_BUDGET_SECONDS = 25.0
_LONGEST_INFERENCE_MS = 2000.0
_SHARE_OF_MEMORY = 0.5
_RESIDENT_FACTOR = 1.1
_RESIDENT_BASE = 150e6
"""Memory of a session: this share of its model's size, and these bytes for the runtime itself."""
_SMALL_MODEL = 2e9
"""Bytes up to which all sessions are kept open together, however large their sum is beside the model."""


@dataclasses.dataclass(frozen=True)
class Question:
    """Everything that the search needs to know.

    Attributes:
        source: The exported model, whose FP32 execution by ONNX Runtime is the reference.
        prepared: The same after the passes that change nothing, from which candidates start.
        latency_limit_ms: No batch size is measured whose p50 is above it.
    """

    source: Model
    prepared: Model
    prepared_by: tuple[PassRecord, ...]
    signature: Signature
    calibration: Samples
    evaluation: Samples
    metric: Metric
    tolerance: Tolerance
    objective: Literal["latency", "throughput", "size"]
    latency_limit_ms: float | None
    options: Search
    machine: Machine
    store: Store


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer: all trials (the reference first), the chosen one, why, and how far the control was from 1."""

    trials: tuple[Trial, ...]
    chosen: Trial
    model: Model
    candidate: Candidate
    why: str
    control: Estimate


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A trial in the making."""

    trial: Trial
    candidate: Candidate
    model: Model | None = None
    quick: Estimate | None = None

    def reject(self, rejection: Rejection, reason: str) -> _Entry:
        """The same, out of the race."""
        outcome = Outcome(rejection=rejection, reason=" ".join(reason.split()))
        return dataclasses.replace(self, trial=self.trial.model_copy(update={"outcome": outcome}))

    def update(self, **fields: object) -> _Entry:
        """The same, with more measured."""
        return dataclasses.replace(self, trial=self.trial.model_copy(update=fields))

    @property
    def alive(self) -> bool:
        return self.trial.outcome is None


def search(question: Question, reference: Candidate, candidates: Sequence[Candidate], progress: Progress) -> Found:
    """Try every candidate and choose."""
    deadline = time.monotonic() + question.options.time_budget / 1e3
    base = dataclasses.replace(_start(reference), model=question.source).update(
        model_form=question.source.form, model_digest=question.source.digest, size_bytes=question.source.size
    )
    progress.stage("running the reference over the samples", 1)
    truth = record_outputs(question.source, reference.runtime, question.signature, question.evaluation, question.store)
    base = _judge(question, truth, base)
    progress.step(_quality_note(base))

    entries = _compile_all(question, candidates, deadline, progress)
    entries = _quick_look(question, base, entries, progress)
    entries = _check_quality(question, truth, entries, progress)
    entries += _refine(question, base, truth, entries, deadline, progress)
    return _decide(question, base, entries, progress)


def _start(candidate: Candidate) -> _Entry:
    trial = Trial(
        name=candidate.name,
        runtime=candidate.runtime.name,
        runtime_fields=describe_fields(candidate.runtime),
    )
    return _Entry(trial, candidate)


def _step(progress: Progress, entry: _Entry) -> _Entry:
    outcome = entry.trial.outcome
    progress.step(f"{entry.trial.name}: {outcome.rejection}, {outcome.reason}" if outcome else "")
    return entry


def _compile_all(question: Question, candidates: Sequence[Candidate], deadline: float, progress: Progress) -> list[_Entry]:
    progress.stage("compiling", len(candidates))
    entries: list[_Entry] = []
    seen: dict[tuple[str, str], str] = {}
    for candidate in candidates:
        if time.monotonic() > deadline:
            entry = _start(candidate).reject(Rejection.SKIPPED, "the time budget was used up before its turn")
        else:
            entry = _compile(candidate, question)
        if entry.model and entry.alive:
            identity = (entry.model.digest, repr(candidate.runtime))
            if identity in seen:
                entry = entry.reject(Rejection.UNCHANGED, f"the same model as {seen[identity]}")
            seen.setdefault(identity, candidate.name)
        entries.append(_step(progress, entry))
    return entries


def _compile(candidate: Candidate, question: Question) -> _Entry:
    entry = _start(candidate)
    try:
        compiled: Compiled = compile_candidate(candidate, question.prepared, question.store)
    except NotApplicableError as error:
        return entry.reject(Rejection.UNSUPPORTED, error.message)
    except CandidateRejectedError as error:
        return entry.reject(error.rejection, error.message)
    except MissingDependencyError as error:
        return entry.reject(Rejection.SKIPPED, f"{error.message}; {error.hint}")
    entry = dataclasses.replace(entry, model=compiled.model)
    return entry.update(
        passes=question.prepared_by + compiled.records,
        model_form=compiled.model.form,
        model_digest=compiled.model.digest,
        size_bytes=compiled.model.size,
    )


def _quick_look(question: Question, base: _Entry, entries: list[_Entry], progress: Progress) -> list[_Entry]:
    """Load each candidate once, run it, and compare its speed with the reference's at one batch size."""
    batch = _quick_batch(question)
    feeds = batch_feeds(question.signature, question.evaluation, batch)
    alive = [entry for entry in entries if entry.alive]
    progress.stage("a quick look at the speed", len(alive))
    looked: dict[str, _Entry] = {entry.trial.name: entry for entry in entries}
    for group in _groups(question, base, alive):
        for entry in _look(question, base, group, feeds, batch):
            looked[entry.trial.name] = _step(progress, entry)
    return list(looked.values())


def _quick_batch(question: Question) -> int:
    if not question.signature.batches:
        return question.signature.batch_size or 1
    return min(8, question.options.max_batch) if question.objective == "throughput" else 1


def _groups(question: Question, base: _Entry, entries: Sequence[_Entry]) -> Iterable[list[_Entry]]:
    """As many candidates at a time as fit into memory beside the reference, and never fewer than one."""
    budget = _budget(question) - _resident(base)
    group: list[_Entry] = []
    for entry in entries:
        if group and sum(map(_resident, group)) + _resident(entry) > budget:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _budget(question: Question) -> float:
    """Bytes that all open sessions may take: half of the machine, or twice the model when that is large itself."""
    half = question.machine.memory_bytes * _SHARE_OF_MEMORY
    return half if question.source.size <= _SMALL_MODEL else min(half, 2.0 * question.source.size)


def _resident(entry: _Entry) -> float:
    return _RESIDENT_FACTOR * (entry.trial.size_bytes or 0) + _RESIDENT_BASE


def _look(question: Question, base: _Entry, group: Sequence[_Entry], feeds: Sequence[Feed], batch: int) -> list[_Entry]:
    with contextlib.ExitStack() as stack:
        opened: dict[str, SessionProcess] = {REFERENCE: stack.enter_context(_open(base))}
        result: dict[str, _Entry] = {}
        for entry in group:
            try:
                session = stack.enter_context(_open(entry))
                session.run_finite(feeds[0])
                evidence = session.evidence()
            except (CandidateRejectedError, MissingDependencyError) as error:
                result[entry.trial.name] = _failed(entry, error)
                continue
            session.pause()
            opened[entry.trial.name] = session
            result[entry.trial.name] = entry.update(evidence=evidence)
        logs = interleave(opened, feeds, rounds=_QUICK_ROUNDS, reference=REFERENCE, narrow=_NARROW, budget_seconds=60)
        for name in opened.keys() - {REFERENCE}:
            result[name] = _quick_profile(result[name], opened[name], logs, batch)
    return list(result.values())


def _failed(entry: _Entry, error: CandidateRejectedError | MissingDependencyError) -> _Entry:
    if isinstance(error, MissingDependencyError):
        return entry.reject(Rejection.SKIPPED, f"{error.message}; {error.hint}")
    return entry.reject(error.rejection, f"{entry.trial.runtime}: {error.message}")


def _quick_profile(entry: _Entry, session: SessionProcess, logs: Mapping[str, TurnLog], batch: int) -> _Entry:
    measured = summarize(batch, logs[entry.trial.name], logs[REFERENCE])
    profile = Profile(
        threads=entry.candidate.runtime.threads,
        load_ms=session.load_ms(),
        first_ms=session.first_ms(),
        peak_bytes=session.peak_bytes(),
        batches=(measured,),
        depth="quick",
        limit="a quick look at one batch size",
    )
    speed = ratio(logs[REFERENCE], logs[entry.trial.name])
    entry = dataclasses.replace(entry, quick=speed).update(profile=profile)
    if speed.high < 1:
        return entry.reject(Rejection.SLOWER, f"{_times(speed)} the speed of the reference at batch {batch}")
    return entry


def _times(speed: Estimate) -> str:
    return f"{speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f}) times"


def _open(entry: _Entry) -> SessionProcess:
    assert entry.model is not None
    return SessionProcess(entry.candidate.runtime, entry.model)


def _check_quality(question: Question, truth: Samples, entries: list[_Entry], progress: Progress) -> list[_Entry]:
    """Judge every candidate on a few samples, then the promising ones on all, the fastest first."""
    alive = [entry for entry in entries if entry.alive]
    done: dict[str, _Entry] = {}
    progress.stage("checking quality on a few samples", len(alive))
    for entry in alive:
        done[entry.trial.name] = _step(progress, _judge_few(question, truth, entry))
    alive = sorted((entry for entry in done.values() if entry.alive), key=functools.partial(_promise, question), reverse=True)
    progress.stage("checking quality on all samples", min(len(alive), _FINALISTS))
    passed = 0
    for entry in alive:
        if passed == _FINALISTS:
            break
        judged = _judge(question, truth, entry)
        done[entry.trial.name] = judged
        passed += judged.alive
        progress.step(_quality_note(judged))
    return [done.get(entry.trial.name, entry) for entry in entries]


def _judge_few(question: Question, truth: Samples, entry: _Entry) -> _Entry:
    """Reject what is clearly wrong; what is only perhaps wrong has to be judged on all samples."""
    judged = _judge(question, truth, entry, _FEW_SAMPLES)
    quality = judged.trial.quality
    if judged.alive or quality is None or len(question.evaluation) <= _FEW_SAMPLES:
        return judged
    at_best = quality.difference + (quality.difference - quality.bound)
    return judged if at_best < quality.allowed else judged.update(outcome=None)


def _judge(question: Question, truth: Samples, entry: _Entry, most: int = sys.maxsize) -> _Entry:
    """Compare a candidate's answers with the reference's, sample by sample."""
    assert entry.model is not None
    samples, truth = question.evaluation.first(most), truth.first(most)
    own = score(truth, question.metric, samples, truth)
    try:
        found = evaluate(
            entry.model, entry.candidate.runtime, question.signature, samples, truth, question.metric,
            question.machine, question.store,
        )  # fmt: skip
    except CandidateRejectedError as error:
        return entry.reject(error.rejection, f"{entry.trial.runtime}: {error.message}")
    confidence = question.options.confidence
    quality = judge(question.metric, found.rows, own.rows, question.tolerance, confidence, found.fidelity)
    entry = entry.update(quality=quality)
    if quality.verdict == "fail":
        return entry.reject(
            Rejection.WORSE, f"{quality.metric} {_signed(quality.difference)}, allowed {_signed(quality.allowed)}"
        )
    if quality.verdict == "inconclusive" and question.options.inconclusive == "reject":
        return entry.reject(Rejection.UNPROVEN, _unproven(quality))
    return entry


def _quality_note(entry: _Entry) -> str:
    quality = entry.trial.quality
    assert quality is not None or entry.trial.outcome is not None
    if quality is None or entry.trial.outcome is not None:
        outcome = entry.trial.outcome
        return f"{entry.trial.name}: {outcome.rejection}, {outcome.reason}" if outcome else ""
    return f"{entry.trial.name}: {quality.metric} {quality.value:.4g} on {quality.count:,} samples"


def _signed(value: float) -> str:
    return f"{value:+.4g}"


def _unproven(quality: Quality) -> str:
    more = f"; about {quality.samples_to_decide:,} samples would decide" if quality.samples_to_decide else ""
    return (
        f"{quality.metric} {_signed(quality.difference)} is within {_signed(quality.allowed)}, "
        f"but {quality.count} samples only bound it at {_signed(quality.bound)}{more}"
    )


def _refine(
    question: Question, base: _Entry, truth: Samples, entries: Sequence[_Entry], deadline: float, progress: Progress
) -> list[_Entry]:
    """For a fast candidate that is wrong, leave its worst operators in float until it is right."""
    bar = max([1.0, *(entry.quick.value for entry in entries if entry.alive and entry.quick)])
    found: list[_Entry] = []
    for entry in sorted(entries, key=lambda one: one.quick.value if one.quick else 0.0, reverse=True):
        outcome = entry.trial.outcome
        if not outcome or outcome.rejection is not Rejection.WORSE or not entry.quick or entry.quick.value <= bar:
            continue
        assert entry.model is not None
        variants = mixed_variants(entry.candidate, question.prepared, entry.model, question.store)
        progress.stage(f"mixed precision for {entry.trial.name}", len(variants))
        for variant in variants:
            if time.monotonic() > deadline:
                break
            trial = _try_variant(question, truth, variant)
            found.append(_step(progress, trial))
            if trial.alive:
                break
    if any(entry.alive for entry in found):
        found = _quick_look(question, base, found, progress)
    return found


def _try_variant(question: Question, truth: Samples, variant: Candidate) -> _Entry:
    entry = _compile(variant, question)
    if entry.alive:
        entry = _judge_few(question, truth, entry)
    return _judge(question, truth, entry) if entry.alive else entry


def _decide(question: Question, base: _Entry, entries: list[_Entry], progress: Progress) -> Found:
    """Measure the finalists in depth beside the reference, and take the best that is faster."""
    alive = sorted((entry for entry in entries if entry.alive), key=lambda entry: _promise(question, entry), reverse=True)
    finalists = next(iter(_groups(question, base, alive[:_FINALISTS])), [])
    rest = alive[len(finalists) :]
    measured, control = _measure_finals(question, base, finalists, progress)
    base, finalists = measured[0], list(measured[1:])
    ranked = sorted(
        (entry for entry in finalists if _is_faster(question, entry, base)),
        key=lambda entry: _score(question, entry),
        reverse=True,
    )
    winner = ranked[0] if ranked else base
    finished = {entry.trial.name: _lost(question, entry, winner, base) for entry in [*finalists, *rest] if entry is not winner}
    trials = [base, *(finished.get(entry.trial.name, entry) for entry in entries)]
    if winner is not base:
        trials = [winner if entry.trial.name == winner.trial.name else entry for entry in trials]
    assert winner.model is not None
    return Found(
        trials=tuple(entry.trial for entry in trials),
        chosen=winner.trial,
        model=winner.model,
        candidate=winner.candidate,
        why=_why(question, winner, base),
        control=control,
    )


def _promise(question: Question, entry: _Entry) -> float:
    if question.objective == "size":
        return -float(entry.trial.size_bytes or 0)
    return entry.quick.value if entry.quick else 0.0


def _measure_finals(
    question: Question, base: _Entry, finalists: Sequence[_Entry], progress: Progress
) -> tuple[list[_Entry], Estimate]:
    entries = [base, *finalists]
    sizes = _batch_sizes(question)
    progress.stage("measuring the finalists", len(sizes))
    with contextlib.ExitStack() as stack:
        sessions = {entry.trial.name: stack.enter_context(_open(entry)) for entry in entries}
        names = {base.trial.name: REFERENCE}
        opened = {names.get(name, name): session for name, session in sessions.items()}
        roomy = sum(map(_resident, [base, *entries])) <= _budget(question)
        opened[CONTROL] = stack.enter_context(_open(base)) if roomy else opened[REFERENCE]
        logs: dict[int, dict[str, TurnLog]] = {}
        limit = f"the largest batch to measure, {sizes[-1]}"
        for batch in sizes:
            found = _measure_batch(question, opened, batch)
            logs[batch] = found
            slowest = min(percentile_of(log) for log in found.values())
            progress.step(f"batch {batch}: reference {percentile_of(found[REFERENCE]):.2f} ms")
            if question.latency_limit_ms and slowest > question.latency_limit_ms:
                limit = f"the latency of batch {batch} is over {question.latency_limit_ms:g} ms"
                break
            if slowest > _LONGEST_INFERENCE_MS / 2:
                limit = f"an inference of batch {batch} takes {slowest / 1e3:.1f} s"
                break
        measured = [
            entry.update(profile=_full_profile(entry, sessions[entry.trial.name], logs, names, limit)) for entry in entries
        ]
    first = logs[sizes[0]]
    return measured, ratio(first[REFERENCE], first[CONTROL])


def percentile_of(log: TurnLog) -> float:
    """Median latency in ms."""
    import statistics

    return statistics.median(log.latencies)


def _measure_batch(question: Question, opened: Mapping[str, SessionProcess], batch: int) -> dict[str, TurnLog]:
    """Measure one batch size, again when the control says that the machine was disturbed."""
    feeds = batch_feeds(question.signature, question.evaluation, batch)
    probe = opened[REFERENCE].time(feeds, 0, 2)[-1]
    opened[REFERENCE].pause()
    turn = min(_LONGEST_TURN, max(TURN_SECONDS, 20 * probe / 1e3))
    best: dict[str, TurnLog] = {}
    off = float("inf")
    for attempt in range(2):
        logs = interleave(
            opened, feeds, rounds=question.options.rounds, turn_seconds=turn, seed=attempt,
            narrow=_NARROW, reference=REFERENCE, budget_seconds=_SIZE_BUDGET_SECONDS,
        )  # fmt: skip
        control = ratio(logs[REFERENCE], logs[CONTROL]).value
        if abs(control - 1) < off:
            best, off = logs, abs(control - 1)
        if _STEADY_CONTROL[0] <= control <= _STEADY_CONTROL[1]:
            break
    return best


def _full_profile(
    entry: _Entry,
    session: SessionProcess,
    logs: Mapping[int, Mapping[str, TurnLog]],
    names: Mapping[str, str],
    limit: str,
) -> Profile:
    own = names.get(entry.trial.name, entry.trial.name)
    return Profile(
        threads=entry.candidate.runtime.threads,
        load_ms=session.load_ms(),
        first_ms=session.first_ms(),
        peak_bytes=session.peak_bytes(),
        batches=tuple(
            summarize(batch, found[own], None if own == REFERENCE else found[REFERENCE]) for batch, found in logs.items()
        ),
        depth="full",
        limit=limit,
    )


def _batch_sizes(question: Question) -> list[int]:
    if not question.signature.batches:
        return [question.signature.batch_size or 1]
    sizes = [1]
    while sizes[-1] * 2 <= question.options.max_batch:
        sizes.append(sizes[-1] * 2)
    return sizes


def batch_feeds(signature: Signature, samples: Samples, batch: int, count: int = 4) -> list[Feed]:
    """Return up to ``count`` inputs of one batch size, made of real samples of the most common shape."""
    import collections

    if signature.batch_axes == {} or signature.batch_size == 1:
        return [samples[index] for index in range(min(count, len(samples)))]
    most = min(len(samples), 256)
    shapes = [tuple(value.shape for value in samples[index].values()) for index in range(most)]
    common, _ = collections.Counter(shapes).most_common(1)[0]
    alike = [index for index, shape in enumerate(shapes) if shape == common]
    picks = [[alike[(start * batch + offset) % len(alike)] for offset in range(batch)] for start in range(count)]
    return [signature.stack([samples[index] for index in pick]) for pick in picks]


def _is_faster(question: Question, entry: _Entry, base: _Entry) -> bool:
    """Whether the whole interval of its speed-up is above 1, at the batch size that the objective looks at."""
    return _score_interval(question, entry, base).low > 1


def _score_interval(question: Question, entry: _Entry, base: _Entry) -> Estimate:
    profile, of = entry.trial.profile, base.trial.profile
    assert profile is not None
    assert of is not None
    if question.objective != "throughput":
        found = profile.batches[0].ratio
        assert found is not None
        return found
    batch, best = _best_throughput(question, profile)
    relative = best / _best_throughput(question, of)[1]
    found = profile.at(batch).ratio
    assert found is not None
    width = relative / found.value
    return Estimate(value=relative, low=found.low * width, high=found.high * width, count=found.count)


def _best_throughput(question: Question, profile: Profile) -> tuple[int, float]:
    limit = question.latency_limit_ms
    within = [entry for entry in profile.batches if limit is None or entry.p99.value <= limit] or [profile.batches[0]]
    best = max(within, key=lambda entry: entry.throughput)
    return best.batch, best.throughput


def _score(question: Question, entry: _Entry) -> float:
    profile = entry.trial.profile
    assert profile is not None
    if question.objective == "size":
        return -float(entry.trial.size_bytes or 0)
    if question.objective == "throughput":
        return _best_throughput(question, profile)[1]
    found = profile.batches[0].ratio
    assert found is not None
    return found.value


def _lost(question: Question, entry: _Entry, winner: _Entry, base: _Entry) -> _Entry:
    if entry.trial.profile is None or entry.trial.profile.depth == "quick":
        assert entry.quick is not None
        quick = f"{entry.quick.value:.2f} times the reference at a quick look"
        if winner is base:
            return entry.reject(Rejection.SLOWER, f"{quick}: not surely faster")
        return entry.reject(Rejection.OUTRUN, f"{quick}; {winner.trial.name} is better")
    speed = _score_interval(question, entry, base)
    if not _is_faster(question, entry, base):
        return entry.reject(Rejection.SLOWER, f"{_times(speed)} the speed of the reference: not surely faster")
    what = f"{(entry.trial.size_bytes or 0) / 1e6:.1f} MB" if question.objective == "size" else _times(speed) + " the reference"
    return entry.reject(Rejection.OUTRUN, f"{what}; {winner.trial.name} is better")


def _why(question: Question, winner: _Entry, base: _Entry) -> str:
    if winner is base:
        return "no candidate was both right and surely faster than the reference, so the reference is shipped"
    speed = _score_interval(question, winner, base)
    kind = {"latency": "the lowest latency", "throughput": "the highest throughput", "size": "the smallest size"}[
        question.objective
    ]
    quality = winner.trial.quality
    assert quality is not None
    proof = {
        "pass": f"{quality.metric} is within the tolerance with {quality.confidence:.0%} confidence",
        "inconclusive": _unproven(quality),
        "fail": "",
    }[quality.verdict]
    return f"{kind} of all that passed: {_times(speed)} the speed of the reference; {proof}"
