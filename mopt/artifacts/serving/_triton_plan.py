"""What Triton's backends can do with a model: the largest batch, the parameters that they read, and the reasons for both."""

from __future__ import annotations

__all__ = [
    "ACCELERATORS",
    "RAGGED",
    "Backend",
    "Plan",
    "backend_of",
    "engine_profiles",
    "is_ragged",
    "plan_of",
    "why_unbatched",
]

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from mopt.artifacts.serving._pbtxt import TYPES
from mopt.errors import NotApplicableError
from mopt.model.signature import Signature
from mopt.records.manifest import Manifest
from mopt.records.units import milliseconds
from mopt.system.nvidia import PORTABLE

RAGGED = "the openvino backend pads batches, and cannot pad inputs of variable size"
ACCELERATORS = {"cuda": "", "tensorrt": "tensorrt"}
"""What the onnxruntime backend calls a provider of ONNX Runtime for GPUs; CUDA is there without a name."""
_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16"))
"""Instruction sets on which OpenVINO computes in BF16 when nothing is asked for."""


@dataclasses.dataclass(frozen=True)
class Backend:
    """What one of Triton's backends is called, and what it cannot load."""

    name: str
    platform: str
    unsupported: frozenset[str]


_BACKENDS = {
    "onnx": Backend("onnxruntime", "onnxruntime_onnx", frozenset()),
    "openvino": Backend("openvino", "", frozenset({"str", "float64", "bfloat16"})),
    "tensorrt": Backend("tensorrt", "tensorrt_plan", frozenset({"str", "float64", "int16", "uint16", "uint32", "uint64"})),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the file says beyond the signature, with the reasons for people to read."""

    max_batch: int
    parameters: Mapping[str, str]
    notes: tuple[str, ...]


def backend_of(manifest: Manifest) -> Backend:
    """Return the backend that loads the model.

    Raises:
        NotApplicableError: When none does, or it does not take one of the tensors.
    """
    if manifest.format not in _BACKENDS:
        raise NotApplicableError(f"Triton has no backend here for a model of the form {manifest.format}")
    backend = _BACKENDS[manifest.format]
    for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
        if spec.dtype not in TYPES or spec.dtype in backend.unsupported:
            raise NotApplicableError(f"its {backend.name} backend does not take tensors of type {spec.dtype}: {spec.name}")
        if 0 in spec.shape:
            raise NotApplicableError(f"Triton does not take tensors with a dimension of 0: {spec.name}")
        if backend.name == "openvino" and not spec.shape:
            raise NotApplicableError(f"its openvino backend does not take scalars: {spec.name}")
    return backend


def plan_of(manifest: Manifest, backend: Backend) -> Plan:
    """Return what the backend is told; batches of 0 where Triton cannot put requests together.

    Raises:
        NotApplicableError: When the backend would compute in another precision than was judged.
    """
    signature, most = manifest.signature, manifest.batching.max_batch
    reason = why_unbatched(signature)
    if backend.name == "tensorrt":
        return _tensorrt_plan(manifest, 0 if reason else most, reason)
    if backend.name == "onnxruntime":
        return _onnxruntime_plan(manifest, 0 if reason else most, reason)
    if not reason and is_ragged(signature) and most > 1:
        reason = RAGGED
    return _openvino_plan(manifest, 0 if reason else most, reason)


def _onnxruntime_plan(manifest: Manifest, most: int, reason: str) -> Plan:
    fields = _fields(manifest)
    parameters = {"inter_op_thread_count": "1"}
    if (threads := fields.pop("threads", None)) is not None:
        parameters["intra_op_thread_count"] = str(threads)
    if fields.get("provider") in ACCELERATORS:
        del fields["provider"]
    return Plan(most, parameters, (*_no_batching(reason), *_left_over(fields)))


def _tensorrt_plan(manifest: Manifest, most: int, reason: str) -> Plan:
    """An engine runs under the one version, and on the GPUs, that it was built for."""
    fields = manifest.runtime_fields
    gpus = ", ".join(fields.get("capabilities") or ()) or PORTABLE.get(fields.get("library", ""), "")
    built = f"{fields.get('library')} {fields.get('version')} for compute capability {gpus}"
    notes = [f"Built with {built}; no other version and no other GPU loads it: mopt rebuild makes an engine for them."]
    if fields.get("library") == "tensorrt_rtx":
        notes.append(
            "Triton's tensorrt backend is built with TensorRT, not with TensorRT for RTX: rebuild on the GPU that serves."
        )
    return Plan(most, {}, (*notes, *_no_batching(reason)))


def _openvino_plan(manifest: Manifest, most: int, reason: str) -> Plan:
    fields = _fields(manifest)
    # All instances share one compiled model, whose streams are what runs side by side and whose threads are all of theirs.
    streams = max(1, manifest.batching.instances)
    parameters = {"NUM_STREAMS": str(streams)}
    notes = list(_no_batching(reason))
    if (threads := fields.pop("threads", None)) is not None:
        parameters["INFERENCE_NUM_THREADS"] = str(threads * streams)
    match fields.pop("precision", None):
        case "bf16":
            parameters["HINT_BF16"] = "YES"
        case "default":
            judged = f" ({manifest.winner.effective_precision})" if manifest.winner.effective_precision else ""
            notes.append(
                f"Judged in what OpenVINO picks by itself on {manifest.machine.cpu}{judged}, for this backend cannot ask for "
                "FP32; a CPU with other instruction sets may pick another precision, which was not judged."
            )
        case "f32" if _BFLOAT16 & set(manifest.machine.isa):
            raise NotApplicableError(
                "it was judged in FP32, which its openvino backend cannot ask for, and OpenVINO picks BF16 on this CPU; "
                "mopt build --serve triton judges it as it is served"
            )
        case "f32":
            notes.append(
                "Measured with INFERENCE_PRECISION_HINT=f32, for which this backend has no parameter. It is what "
                "OpenVINO does by itself on a CPU without BF16 arithmetic; on a CPU with it, OpenVINO picks BF16, "
                "which was not judged here."
            )
    if most >= 1 and not is_ragged(manifest.signature):
        fields.pop("shapes", None)  # the backend fixes the batch, and nothing else varies: it is always compiled for one shape
    if most > 1:
        parameters["ENABLE_BATCH_PADDING"] = "YES"
        notes.append(
            f"This backend fixes the batch at {most} and pads smaller ones, so that a lone request takes as long as a "
            f"full batch{_full_batch_time(manifest, most)}. Set max_batch_size to 1 where requests are rare."
        )
    return Plan(most, parameters, (*notes, *_left_over(fields)))


def _full_batch_time(manifest: Manifest, most: int) -> str:
    profile = manifest.winner.profile
    entry = next((entry for entry in profile.batches if entry.batch == most), None) if profile else None
    return f" ({milliseconds(entry.p50.value)} when measured)" if entry else ""


def _no_batching(reason: str) -> tuple[str, ...]:
    return (f"Triton does not batch requests here: {reason}.",) if reason else ()


def _left_over(fields: Mapping[str, Any]) -> Iterable[str]:
    return (f"Measured with {key}={value}, for which this backend has no parameter." for key, value in fields.items())


def _fields(manifest: Manifest) -> dict[str, Any]:
    """The runtime's options, with the threads that the batch settings give to each instance."""
    threads = {"threads": manifest.batching.threads} if manifest.batching.threads else {}
    return {**manifest.runtime_fields, **threads}


def why_unbatched(signature: Signature) -> str:
    """Return why Triton cannot batch, or an empty string: it stacks every tensor along axis 0."""
    if signature.batch_size is not None:
        return f"the model has a fixed batch size of {signature.batch_size}"
    for spec in (*signature.inputs, *signature.outputs):
        if spec.name not in signature.batch_axes:
            return f"{spec.name} has no batch axis"
        if signature.batch_axes[spec.name] != 0:
            return f"{spec.name} is batched along axis {signature.batch_axes[spec.name]}, and Triton stacks along axis 0"
        if not spec.shape or isinstance(spec.shape[0], int):
            return f"axis 0 of {spec.name} is not variable"
    return ""


def is_ragged(signature: Signature) -> bool:
    """Whether a size besides that of the batch varies."""
    return any(isinstance(dimension, str) for spec in signature.inputs for dimension in spec.shape[1:])


def engine_profiles(manifest: Manifest) -> list[dict[str, tuple[tuple[int, ...], ...]]]:
    """The shapes by input of each optimization profile of an engine."""
    engine = next((step for step in manifest.winner.passes if step.name == "build_tensorrt"), None)
    profiles = engine.fields.get("profiles", []) if engine else []
    return [{shapes["name"]: (shapes["least"], shapes["best"], shapes["most"]) for shapes in profile} for profile in profiles]
