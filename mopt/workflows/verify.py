"""An artifact proves itself on the machine that will serve it."""

from __future__ import annotations

__all__ = ["verify"]

from pathlib import Path
from typing import TYPE_CHECKING

from mopt.artifacts.artifact import Artifact
from mopt.errors import CandidateRejectedError
from mopt.model.signature import Feed
from mopt.profiles.machine import detect
from mopt.progress import Progress, Silent
from mopt.records.benchmark import Verification
from mopt.records.manifest import Manifest
from mopt.runtimes._base import SessionProcess, make_runtime
from mopt.storage._fetch import fetched
from mopt.system.forkserver import forking
from mopt.system.hangs import recorded, recording

if TYPE_CHECKING:
    import numpy as np


@forking()
def verify(artifact: str | Path, *, progress: Progress | None = None) -> Verification:
    """Check the digest of every file, then replay the golden samples.

    A file that is not what was built ends the check: a model that somebody changed is not loaded.

    Args:
        artifact: A folder that mopt build wrote, or its URL.
        progress: Receives a stage while it is fetched.

    Raises:
        UserError: When the folder is no artifact, or its runtime is not installed.
    """
    built = Artifact.read(fetched(artifact, progress))
    manifest, problems = built.manifest, built.problems()
    warnings = _warnings(manifest)
    if problems:
        return Verification(
            ok=False, problems=tuple(problems), warnings=warnings, files=len(manifest.files), samples=0,
            summary="not run: files differ", largest_difference={},
        )  # fmt: skip
    with recording(Silent()):
        try:
            differences, wrong, precision = _replay(built)
        except CandidateRejectedError as error:
            differences, wrong, precision = {}, [f"{manifest.runtime}: {error.message}"], ""
        warnings += recorded()
    judged = manifest.winner.effective_precision
    if precision and judged and precision != judged:
        warnings += (f"{manifest.runtime} computes in {precision} here, and {judged} was judged: build it again here",)
    largest = ", ".join(f"{name} within {value:.2g}" for name, value in differences.items())
    return Verification(
        ok=not wrong,
        problems=tuple(wrong),
        warnings=warnings,
        files=len(manifest.files),
        samples=manifest.golden.count,
        summary=largest or "outputs compared",
        largest_difference=differences,
    )


def _warnings(manifest: Manifest) -> tuple[str, ...]:
    here = detect()
    warnings = []
    if here.isa != manifest.machine.isa:
        warnings.append(f"built on {' '.join(manifest.machine.isa)}, this machine has {' '.join(here.isa)}: measure again here")
    elif here.cpu != manifest.machine.cpu or here.cores != manifest.machine.cores:
        warnings.append(f"measured on {manifest.machine.cpu}, {manifest.machine.cores} cores; this is {here.cpu}, {here.cores}")
    if why := make_runtime(manifest.runtime, manifest.runtime_fields).unavailable():
        warnings.append(f"the model itself was not loaded, only what it came from: {why}")
    if manifest.golden.random:
        warnings.append(f"not compared, since they differ from run to run: {', '.join(manifest.golden.random)}")
    if not manifest.deployable:
        warnings.append(f"not deployable: {manifest.not_deployable_because}")
    return tuple(warnings)


def _replay(artifact: Artifact) -> tuple[dict[str, float], list[str], str]:
    """Return the largest difference by output, what is wrong, and the precision that the runtime reports here."""
    manifest = artifact.manifest
    model, runtime = make_runtime(manifest.runtime, manifest.runtime_fields).fallback(artifact.model)
    differences: dict[str, float] = {}
    wrong: list[str] = []
    signature = manifest.signature
    with SessionProcess(runtime, model) as session:
        for index, (inputs, expected) in enumerate(artifact.golden()):
            outputs = signature.unstack(session.run(signature.alone(inputs)), signature.batch_size or 1)[0]
            for name, value in expected.items():
                problem = _compare(name, outputs, value, manifest.golden.tolerance, differences)
                wrong.extend([f"sample {index}: {problem}"] if problem else [])
        precision = str(session.evidence().get("precision", "")) if runtime.name == manifest.runtime else ""
    return differences, wrong, precision


def _compare(name: str, outputs: Feed, expected: np.ndarray, tolerance: dict[str, float], differences: dict[str, float]) -> str:
    import numpy as np

    output = outputs.get(name)
    if output is None or output.shape != expected.shape:
        return f"output {name} has shape {None if output is None else output.shape}, was {expected.shape}"
    if expected.dtype.kind != "f":
        return "" if bool((output == expected).all()) else f"output {name} differs"
    difference = float(np.abs(output.astype(np.float64) - expected).max(initial=0))
    differences[name] = max(difference, differences.get(name, 0.0))
    if not difference <= tolerance[name]:
        return f"output {name} differs by {difference:.3g}, allowed {tolerance[name]:.3g}"
    return ""
