"""Whether a server computes what was judged: told by its answers, and by what the runtime in it reports."""

from __future__ import annotations

__all__ = ["precision_by_answers", "reported_by_runtime"]

import dataclasses
import json
from collections.abc import Iterator, Sequence

from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import Launch
from mopt.model.signature import Feed
from mopt.records.serving import Proof
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.system.digests import describe_fields

_CLOSER = 0.5
"""How much nearer the answers must be to the judged precision's than to another one's to tell the two apart."""


def precision_by_answers(built: Artifact, runtime: Runtime, inputs: Sequence[Feed], answers: Sequence[Feed]) -> Proof:
    """Compare the answers with those of the model here, in the precision that was judged and in the others."""
    part = "precision, by its answers"
    judged = _run_here(built, runtime, inputs)
    to_judged = _distance(judged, answers)
    detail = f"{to_judged:.2g} from {runtime.name} here on average"
    others = _other_precisions(built, runtime)
    if not others:
        return Proof(part=part, state="proven", detail=f"{detail}, which knows no other precision for this file")
    for precision, alternative in others.items():
        answered = _run_here(built, alternative, inputs)
        apart, to_other = _distance(judged, answered), _distance(answered, answers)
        if apart == 0:
            detail += f"; {precision} answers the same"
        elif to_judged > _CLOSER * to_other:
            state = "failed" if to_other <= _CLOSER * to_judged else "not proven"
            return Proof(part=part, state=state, detail=f"{detail}, {to_other:.2g} from {precision}")
        else:
            detail += f", {to_other:.2g} from {precision}"
    return Proof(part=part, state="proven", detail=detail)


def _other_precisions(built: Artifact, runtime: Runtime) -> dict[str, Runtime]:
    """The same runtime in each other precision that it has here."""
    field = next((field for field in dataclasses.fields(runtime) if field.name == "precision"), None)
    if field is None:
        return {}
    judged = describe_fields(runtime.resolved(built.manifest.machine.isa))["precision"]
    known = [value for value in ("f32", "bf16") if value != judged]
    return {value: dataclasses.replace(runtime, precision=value) for value in known}  # type: ignore[call-arg]


def _run_here(built: Artifact, runtime: Runtime, inputs: Sequence[Feed]) -> list[Feed]:
    signature = built.manifest.signature
    count = signature.batch_size or 1
    with SessionProcess(runtime, built.model) as session:
        answers = [signature.unstack(session.run(signature.alone(feed)), count)[0] for feed in inputs]
    random = built.manifest.golden.random
    return [{name: value for name, value in answer.items() if name not in random} for answer in answers]


def _distance(answers: Sequence[Feed], others: Sequence[Feed]) -> float:
    """Mean absolute difference over all numbers that are no integers."""
    import numpy as np

    pieces = [
        np.abs(answer[name].astype(np.float64).ravel() - other[name].astype(np.float64).ravel())
        for answer, other in zip(answers, others, strict=True)
        for name in answer
        if answer[name].dtype.kind in "fV"
    ]
    return float(np.nanmean(np.concatenate(pieces))) if pieces and sum(map(len, pieces)) else 0.0


def reported_by_runtime(built: Artifact, launch: Launch | None) -> Iterator[Proof]:
    """Compare what the runtime in the server says of itself with what was judged."""
    if launch is None or launch.report is None or not launch.report.is_file():
        yield Proof(
            part="precision and threads, as the runtime reports", state="not proven", detail="nothing in this server tells them"
        )
        return
    report = json.loads(launch.report.read_text(encoding="utf-8"))
    manifest = built.manifest
    arithmetic = manifest.winner.effective_precision.rpartition("+")[2]
    if "precision" in report:
        same = report["precision"] == arithmetic or not arithmetic
        detail = f"{report['precision']}, judged in {manifest.winner.effective_precision or 'one that is not known'}"
        yield Proof(part="precision, as the runtime reports", state="proven" if same else "failed", detail=detail)
    threads = manifest.batching.threads or manifest.runtime_fields.get("threads")
    if "threads" in report and threads:
        instances = max(1, manifest.batching.instances)
        each = report["threads"] // max(1, report.get("streams", 1))
        detail = f"{each} for each of {instances}, planned with {threads}"
        yield Proof(part="threads, as the runtime reports", state="proven" if each == threads else "failed", detail=detail)
    for library, version in report.get("versions", {}).items():
        judged = manifest.versions.get(library, "")
        state = "proven" if judged == version else "not proven"
        detail = version if judged == version else f"{version} here, and {judged or 'another'} was judged: its speed may differ"
        yield Proof(part=f"version of {library}", state=state, detail=detail)
