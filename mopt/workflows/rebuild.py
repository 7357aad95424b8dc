"""Build the engine of an artifact again, from the ONNX that lies beside it, for the GPU or the version that will serve."""

from __future__ import annotations

__all__ = ["rebuild"]

import dataclasses
from pathlib import Path
from typing import Any

from mopt.artifacts import bundle
from mopt.artifacts.artifact import Artifact
from mopt.errors import CandidateRejectedError, NotApplicableError, UserError
from mopt.model.files import Model
from mopt.passes._tensorrt import ShapeRange
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.profiles.machine import detect
from mopt.profiles.target import Gpu, load_target
from mopt.progress import Progress, Silent
from mopt.records._base import stamp
from mopt.records.manifest import Manifest
from mopt.records.trial import TrialRecord
from mopt.reports.build import render_files
from mopt.runtimes.tensorrt import TensorRT
from mopt.search.compile import Compiled, compile_passes
from mopt.search.without_device import NOT_MEASURED, check_buildable
from mopt.system.digests import describe_fields
from mopt.system.forkserver import forking
from mopt.system.nvidia import version_of
from mopt.system.store import Store, default_root


@forking()
def rebuild(
    artifact: Path,
    target: str,
    *,
    out: Path,
    force: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Manifest:
    """Build the engine for another target and write a new artifact; quality, data and golden samples stay as they are.

    Args:
        artifact: One with a TensorRT engine.
        target: A GPU.
        out: Folder to write.
        force: Replace an artifact that is there.
        store: Cache to use instead of the default one.
        progress: Receives the stages.
        command: The command line to record.

    Raises:
        UserError: When the artifact has no engine or was changed, or the engine cannot be built.
    """
    progress = progress or Silent()
    manifest, gpu_target = Artifact.read(artifact).manifest, load_target(target, detect())
    if manifest.format not in TensorRT.formats:
        raise UserError(
            f"{artifact} holds {manifest.format}, not an engine", "build it for a GPU: mopt build --target nvidia-l4"
        )
    if gpu_target.gpu is None:
        raise UserError(f"target {gpu_target.name} is no GPU", "choose one with mopt list targets")
    check_buildable(gpu_target)
    built = Artifact.open(artifact)
    bundle.check_destination(out, force=force)
    engine = _engine(manifest, gpu_target.gpu)
    progress.stage(f"building the engine for {gpu_target.name}", 1)
    try:
        compiled = compile_passes((engine,), _source(artifact), store or Store(default_root()))
    except (NotApplicableError, CandidateRejectedError) as error:
        raise UserError(f"the engine cannot be built for {gpu_target.name}: {error.message}") from None
    progress.step(f"{compiled.model.size:,} bytes")
    golden = built.golden()
    renewed = _renewed(manifest, compiled, engine, gpu_target.model_dump(mode="json"), command)
    return bundle.write_artifact(
        out,
        model=compiled.model,
        manifest=renewed,
        golden_inputs=[inputs for inputs, _ in golden],
        golden_outputs=[outputs for _, outputs in golden],
        reports=render_files,
        serving=manifest.recipe.get("serve", ()),
        sketch=built.sketch() if built.has_sketch else None,
        force=force,
    )


def _source(artifact: Path) -> Model:
    return Model.source_of("tensorrt", artifact / "model")


def _engine(manifest: Manifest, gpu: Gpu) -> BuildTensorrt:
    """The pass that built it, for another GPU."""
    record = manifest.winner.passes[-1]
    fields = dict(record.fields)
    fields["profiles"] = tuple(
        tuple(
            ShapeRange(shape_range["name"], *(tuple(shape_range[key]) for key in ("least", "best", "most")))
            for shape_range in profile
        )
        for profile in fields.get("profiles", ())
    )
    rtx = gpu.library == "tensorrt_rtx"
    fields |= {"library": gpu.library, "capabilities": (gpu.capability,) if rtx else ()}
    return BuildTensorrt(
        **{field.name: fields[field.name] for field in dataclasses.fields(BuildTensorrt) if field.name in fields}
    )


def _renewed(
    manifest: Manifest,
    compiled: Compiled,
    engine: BuildTensorrt,
    target: dict[str, Any],
    command: str,
) -> Manifest:
    runtime = TensorRT(library=engine.library, version=version_of(engine.library), capabilities=engine.capabilities)
    fields, old = describe_fields(runtime), manifest.winner
    measured = NOT_MEASURED if runtime.unavailable() else "not since it was rebuilt; mopt bench does"
    evidence = {"layers": compiled.records[0].detail.get("computes", {}), "measured": measured}
    new = old.model_copy(
        update={
            "runtime_fields": fields, "passes": (*old.passes[:-1], *compiled.records), "model_digest": compiled.model.digest,
            "size_bytes": compiled.model.size, "evidence": evidence, "profile": None,
        }
    )  # fmt: skip

    def trial(earlier: TrialRecord) -> TrialRecord:
        return new if earlier.name == old.name else earlier

    return manifest.model_copy(
        update={
            "target": target, "runtime_fields": fields, "trials": tuple(map(trial, manifest.trials)), "files": {},
            **stamp(), "command": command or manifest.command, "serving_profile": None,
        }
    )  # fmt: skip
