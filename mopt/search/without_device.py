"""TensorRT engines: the shapes they cover, and which one to take when there is no GPU to ask."""

from __future__ import annotations

__all__ = ["NOT_MEASURED", "check_buildable", "choose_unmeasured", "engine_pass", "runs_here", "shape_ranges"]

import statistics
import time
from collections.abc import Sequence

from mopt.errors import Rejection, UserError
from mopt.model.samples import Samples
from mopt.model.signature import Signature, TensorSpec
from mopt.passes._tensorrt import ShapeRange
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.profiles.target import Gpu, Target
from mopt.progress import Progress
from mopt.recipe import Engine
from mopt.runtimes.onnxruntime_gpu import OnnxRuntimeGpu
from mopt.search.mixed_precision import quantizing_pass
from mopt.search.outlook import COMPILING
from mopt.search.quality import (
    QUALITY_REJECTIONS,
    ReferenceOutputs,
    check_quality,
    check_reference,
    compile_all,
    compile_trial,
    quality_note,
    record_reference,
    reference_trial,
    screen_quality,
    search_mixed_precision,
)
from mopt.search.selection import SearchResult, output_sqnr_db
from mopt.search.task import SearchTask
from mopt.search.trial import Candidate, Trial, report_step, with_evidence
from mopt.system.nvidia import NO_GPU, devices, import_tensorrt, version_of

_BEST_BATCH = 8
NOT_MEASURED = f"skipped: {NO_GPU}"
"""In place of every speed."""


def runs_here(gpu: Gpu) -> bool:
    """Whether this machine has a GPU of that kind, so that speed can be measured."""
    return any(device.capability == gpu.capability for device in devices())


def check_buildable(target: Target) -> None:
    """Refuse a GPU whose engines cannot be built here, before any work.

    Raises:
        UserError: When it takes TensorRT on the GPU itself, or the library is not installed.
    """
    gpu = target.gpu
    if gpu is None:
        return
    if runs_here(gpu) and not version_of(gpu.library) and OnnxRuntimeGpu().installed():
        return
    if gpu.library == "tensorrt" and not runs_here(gpu):
        raise UserError(
            f"engines for {target.name} are built by TensorRT on the GPU itself, and there is none of compute capability "
            f"{gpu.capability} here",
            "run this on such a machine; engines for T4, A100, A10G, L4, L40S and RTX cards can be built anywhere",
        )
    import_tensorrt(gpu.library)


def engine_pass(gpu: Gpu, options: Engine, signature: Signature, samples: Samples, max_batch: int) -> BuildTensorrt:
    """Return the pass that builds engines for a GPU.

    Raises:
        UserError: When a profile does not fit the inputs.
    """
    rtx = gpu.library == "tensorrt_rtx"
    capabilities = () if options.portable or not rtx else tuple(sorted({gpu.capability, *options.capabilities}))
    return BuildTensorrt(
        library=gpu.library,
        capabilities=capabilities,
        profiles=_given(options, signature, max_batch) if options.profiles else _seen(options, signature, samples, max_batch),
        workspace_bytes=options.workspace,
        level=options.level,
        version_compatible=options.version_compatible and not rtx,
        hardware="none" if rtx else options.hardware,
    )


def _given(options: Engine, signature: Signature, max_batch: int) -> tuple[tuple[ShapeRange, ...], ...]:
    specs = {spec.name: spec for spec in signature.inputs}
    for profile in options.profiles:
        if unknown := sorted(profile.keys() - specs.keys()):
            raise UserError(f"a profile names {unknown[0]}, which is no input", f"the inputs are {', '.join(specs)}")
        for name, shapes in profile.items():
            _check_profile(specs[name], shapes)
    for name, axis in signature.batch_axes.items() if signature.batches else ():
        covered = max((profile[name][2][axis] for profile in options.profiles if name in profile), default=0)
        if name in specs and covered < max_batch:
            raise UserError(
                f"the profiles cover batches of {name} up to {covered}, and batches up to {max_batch} are asked for",
                f"set search.max_batch to {covered}, or give a larger profile" if covered else f"give shapes of {name} too",
            )
    return tuple(tuple(ShapeRange(name, *shapes) for name, shapes in profile.items()) for profile in options.profiles)


def _check_profile(spec: TensorSpec, shapes: Sequence[Sequence[int]]) -> None:
    for shape in shapes:
        fits = len(shape) == len(spec.shape) and all(
            isinstance(declared, str) or size == declared for size, declared in zip(shape, spec.shape, strict=True)
        )
        if not fits:
            raise UserError(
                f"a profile gives {spec.name} the shape {list(shape)}, and the model has {spec}", "give its own rank and sizes"
            )
    if any(not low <= best <= high for low, best, high in zip(*shapes, strict=True)):
        raise UserError(
            f"the profile of {spec.name} is not in the order smallest, best, largest", f"it is {list(map(list, shapes))}"
        )


def _seen(options: Engine, signature: Signature, samples: Samples, max_batch: int) -> tuple[tuple[ShapeRange, ...], ...]:
    best = min(options.best_batch or _BEST_BATCH, max_batch)
    ranges = shape_ranges(signature, samples, best, max_batch)
    return (ranges,) if ranges else ()


def shape_ranges(signature: Signature, samples: Samples, best_batch: int, max_batch: int) -> tuple[ShapeRange, ...]:
    """Return what the inputs of variable size have to cover: batches up to the largest, and the shapes in the data."""
    ranges = []
    feeds = [samples[index] for index in range(len(samples))]
    for spec in signature.inputs:
        if all(isinstance(size, int) for size in spec.shape):
            continue
        shapes = [feed[spec.name].shape for feed in feeds]
        axes = [_axis(spec, signature, index, shapes, best_batch, max_batch) for index in range(len(spec.shape))]
        ranges.append(ShapeRange(spec.name, *(tuple(sizes) for sizes in zip(*axes, strict=True))))
    return tuple(ranges)


def _axis(
    spec: TensorSpec, signature: Signature, index: int, shapes: Sequence[Sequence[int]], best_batch: int, max_batch: int
) -> tuple[int, int, int]:
    size = spec.shape[index]
    if isinstance(size, int):
        return size, size, size
    if signature.batch_axes.get(spec.name) == index:
        fixed = signature.batch_size
        return (fixed, fixed, fixed) if fixed else (1, best_batch, max_batch)
    seen = sorted(shape[index] for shape in shapes)
    return seen[0], int(statistics.median_high(seen)), seen[-1]


def choose_unmeasured(
    task: SearchTask, reference_candidate: Candidate, candidates: Sequence[Candidate], progress: Progress
) -> SearchResult:
    """Build every engine, judge what it came from, and take the first kind that is right: no speed is known, and none claimed.

    Before a kind is passed over because its quality is not enough, mixed precision is tried for it.

    Raises:
        UserError: When no engine could be built, or none is right.
    """
    deadline = time.monotonic() + task.time_budget_s
    progress.stage("running the reference over the samples", 1)
    expected = record_reference(task.quality, task.source, reference_candidate)
    reference = check_reference(task.quality, expected, reference_trial(task.source, reference_candidate))
    progress.step(quality_note(reference))
    progress.stage(COMPILING, len(candidates))
    trials = compile_all(task.compiling, candidates, deadline, progress)
    progress.stage("checking quality on all samples", sum(trial.alive for trial in trials))
    judged = [
        report_step(progress, check_quality(task.quality, expected, _with_evidence(trial))) if trial.alive else trial
        for trial in trials
    ]
    judged += _refine(task, expected, judged, deadline, progress)
    winner = _first(judged)
    if winner is None:
        reasons = "; ".join(f"{trial.record.name}: {trial.record.outcome.reason}" for trial in judged if trial.record.outcome)
        raise UserError(
            f"no engine could be built that is right: {reasons[:1500]}", "see which candidates there are with --dry-run"
        )
    lost = [trial if trial is winner or not trial.alive else _not_taken(trial, winner) for trial in judged]
    assert winner.model is not None
    return SearchResult(
        trials=(reference.record, *(trial.record for trial in lost)),
        chosen=winner.record,
        model=winner.model,
        candidate=winner.candidate,
        why=f"the first kind that is right, in the order in which such engines are usually fast, and of it the closest to "
        "the reference; "
        f"how fast it is was not measured: {NOT_MEASURED}",
        control=None,
    )


def _kinds(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Engines that compute in the same type, in the order of the candidates."""
    kinds: dict[str, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault(_kind(trial), []).append(trial)
    return list(kinds.values())


def _kind(trial: Trial) -> str:
    step = quantizing_pass(trial.candidate.passes)
    return step.kind if step else trial.record.name


def _first(trials: Sequence[Trial]) -> Trial | None:
    """Of the first kind that is right, the one with the fewest operators in float; of several such the closest one."""
    for kind in _kinds(trials):
        if right := [trial for trial in kind if trial.alive]:
            return min(right, key=lambda trial: (_left_out(trial), -output_sqnr_db(trial)))
    return None


def _left_out(trial: Trial) -> int:
    step = quantizing_pass(trial.candidate.passes)
    return len(step.float_nodes) if step else 0


def _refine(
    task: SearchTask, expected: ReferenceOutputs, trials: Sequence[Trial], deadline: float, progress: Progress
) -> list[Trial]:
    """Try mixed precision for each kind before the first right one, on the closest to the reference, until one is right."""

    def attempt(variant: Candidate) -> Trial:
        trial = compile_trial(task.compiling, variant)
        if trial.alive:
            trial = screen_quality(task.quality, expected, _with_evidence(trial))
        return check_quality(task.quality, expected, trial) if trial.alive else trial

    variants: list[Trial] = []
    samples = task.calibration if len(task.calibration) else task.quality.samples
    for kind in _kinds(trials):
        if any(trial.alive for trial in (*kind, *variants)):
            break
        wrong = [trial for trial in kind if trial.record.outcome and trial.record.outcome.rejection in QUALITY_REJECTIONS]
        if wrong:
            best = max(wrong, key=output_sqnr_db).candidate
            variants += search_mixed_precision(
                task.compiling, samples, best, attempt, attempt, lambda _: (), deadline, progress
            )
    return variants


def _with_evidence(trial: Trial) -> Trial:
    """What the engine computes in, as its layer table says."""
    detail = trial.record.passes[-1].detail if trial.record.passes else {}
    return with_evidence(trial, {"layers": detail.get("computes", {}), "measured": NOT_MEASURED})


def _not_taken(trial: Trial, winner: Trial) -> Trial:
    return trial.reject(Rejection.SKIPPED, f"{winner.record.name} is taken; which of them is faster only a GPU tells")
