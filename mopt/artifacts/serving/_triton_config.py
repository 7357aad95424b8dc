"""``config.pbtxt`` of a model in Triton, and the samples that it warms up with."""

from __future__ import annotations

__all__ = ["body", "header", "write_warmup"]

from pathlib import Path

from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving._pbtxt import TYPES, quote, tensor
from mopt.artifacts.serving._provisioning import on_gpu, provision
from mopt.artifacts.serving._triton_plan import ACCELERATORS, Backend, Plan, engine_profiles
from mopt.model.signature import Feed, raw_bytes
from mopt.records.manifest import Manifest
from mopt.records.units import digits, milliseconds


def header(manifest: Manifest, backend: Backend, plan: Plan) -> list[str]:
    """Return comments for who reads the file: what it serves, why it is so, what it was planned for."""
    batching = manifest.batching
    notes = [
        f"{manifest.name}: {manifest.chosen}, written by mopt {manifest.mopt_version} for the {backend.name} backend.",
        *plan.notes,
    ]
    if batching.rate is not None:
        predicted = batching.predicted_p99_ms
        latency = "" if predicted is None else f", p99 {milliseconds(predicted)} without the server's own time"
        replicas = f"{batching.replicas} server{'' if batching.replicas == 1 else 's'}"
        notes.append(f"Planned for {digits(batching.rate)} requests per second on {replicas} like this{latency}.")
    if not manifest.deployable:
        notes.append(f"NOT DEPLOYABLE: {manifest.not_deployable_because}.")
    return [f"# {' '.join(_printable(note).split())}" for note in notes]


def body(manifest: Manifest, backend: Backend, plan: Plan) -> list[str]:
    """Return the fields of ``ModelConfig`` besides the warm-up."""
    batching = manifest.batching
    lines = [f"name: {quote(model_name(manifest.name))}", f"backend: {quote(backend.name)}"]
    if backend.platform:
        lines.append(f"platform: {quote(backend.platform)}")
    lines.append(f"max_batch_size: {plan.max_batch}")
    for kind, specs in (("input", manifest.signature.inputs), ("output", manifest.signature.outputs)):
        lines += [line for spec in specs for line in tensor(kind, spec, batched=plan.max_batch > 0)]
    # Another version in this folder replaces this one, and answers are computed anew: what was judged is what is served.
    lines += [_instance_group(manifest), "version_policy { latest { num_versions: 1 } }", "response_cache { enable: false }"]
    if accelerator := ACCELERATORS.get(manifest.runtime_fields.get("provider", "")):
        named = f"gpu_execution_accelerator: [ {{ name: {quote(accelerator)} }} ]"
        lines.append(f"optimization {{ execution_accelerators {{ {named} }} }}")
    if backend.name == "tensorrt" and manifest.runtime_fields.get("graph"):
        lines.append("optimization { cuda { graphs: true } }")
    if plan.max_batch > 1:
        lines.append(
            f"dynamic_batching {{ max_queue_delay_microseconds: {batching.queue_delay_us}{_preferred(manifest, plan)} }}"
        )
    lines += [
        f"parameters {{ key: {quote(key)} value {{ string_value: {quote(value)} }} }}"
        for key, value in sorted(plan.parameters.items())
    ]
    return lines


def _instance_group(manifest: Manifest) -> str:
    count = max(1, manifest.batching.instances)
    if not on_gpu(manifest):
        return f"instance_group {{ count: {count} kind: KIND_CPU }}"
    profiles = engine_profiles(manifest)
    named = f" profile: [ {', '.join(quote(str(index)) for index in range(len(profiles)))} ]" if len(profiles) > 1 else ""
    return f"instance_group {{ count: {count} kind: KIND_GPU{named} }}"


def _preferred(manifest: Manifest, plan: Plan) -> str:
    """The batch sizes that profiles are tuned for, where there are several: only then is waiting for one worth it."""
    profiles = engine_profiles(manifest) if manifest.format == "tensorrt" else []
    if len(profiles) < 2:
        return ""
    sizes = {
        shapes[1][0] for profile in profiles for shapes in profile.values() if shapes[1] and shapes[1][0] <= plan.max_batch
    }
    return f" preferred_batch_size: [ {', '.join(map(str, sorted(sizes)))} ]" if sizes else ""


def write_warmup(folder: Path, manifest: Manifest, plan: Plan, feed: Feed) -> list[str]:
    """Write a real sample as raw bytes; return the lines that make Triton run it, alone and as a full batch.

    Alone first: the openvino backend takes the buffers of a full batch as they are, and writes a padded one into the buffers of
    the last request when no padded one came first.
    """
    folder.mkdir()
    signature = manifest.signature
    feed = signature.alone(feed)
    inputs = []
    for index, spec in enumerate(signature.inputs):
        array = feed[spec.name]
        (folder / f"input-{index}").write_bytes(raw_bytes(array))
        shape = array.shape[1:] if plan.max_batch > 0 else array.shape
        dims = ", ".join(map(str, shape or (1,)))
        inputs.append(
            f"  inputs {{ key: {quote(spec.name)} value {{ data_type: {TYPES[spec.dtype]} dims: [ {dims} ] "
            f"input_data_file: {quote(f'input-{index}')} }} }}"
        )
    lines = []
    for batch in sorted({1, max(1, plan.max_batch)}):
        lines += ["model_warmup {", f"  name: {quote(f'golden sample, batch {batch}')}", f"  batch_size: {batch}"]
        lines += [f"  count: {provision(manifest).warm_up_requests}", *inputs, "}"]
    return lines


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
