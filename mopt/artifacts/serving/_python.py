"""What all services in Python share: the model with the file that opens it, an image to run it in, and how it is asked."""

from __future__ import annotations

__all__ = [
    "PYTHON_SETTABLE",
    "check_python",
    "copy_file",
    "prove",
    "requirements",
    "service_name",
    "threads",
    "write_served_model",
]

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.serving._base import EVERYTHING, Settable
from mopt.artifacts.serving._names import service_name
from mopt.errors import NotApplicableError
from mopt.model.formats import model_format
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment
from mopt.system.files import files_below, link_or_copy

_FILES = Path(__file__).parent / "_files"
PYTHON_SETTABLE: Mapping[str, Settable] = dict.fromkeys(("onnxruntime", "onnxruntime_gpu", "openvino"), EVERYTHING)
"""What a service can tell that opens the session itself, through ``served_model.py``."""
_DISTRIBUTIONS = {"onnxruntime": "onnxruntime", "onnxruntime_gpu": "onnxruntime-gpu", "openvino": "openvino"}
_CHECK_SECONDS = 300
_LINES = 8
"""Of what a program says."""
_NOT_IN_JSON = frozenset({"bfloat16", "complex64", "complex128", "float8e4m3fn", "float8e5m2", "int4", "uint4"})


def check_python(manifest: Manifest) -> None:
    """Refuse what ``served_model.py`` cannot open, or JSON cannot carry.

    Raises:
        NotApplicableError: With the reason.
    """
    if manifest.runtime not in PYTHON_SETTABLE or manifest.format not in ("onnx", "openvino"):
        raise NotApplicableError(f"a service in Python does not run a model of the form {manifest.format} here")
    for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
        if spec.dtype in _NOT_IN_JSON:
            raise NotApplicableError(f"{spec.name} is {spec.dtype}, which JSON does not carry")


def write_served_model(
    folder: Path,
    *,
    manifest: Manifest,
    model_folder: Path,
    golden: Sequence[Feed],
    service: Mapping[str, Any] | None = None,
) -> None:
    """Write ``served_model.py``, ``served_model.json``, ``model/`` and, where there is a golden sample, ``warmup.npz``.

    Args:
        folder: Where they go.
        manifest: Of the artifact.
        model_folder: The model's files.
        golden: Real inputs for a batch of one.
        service: What the system's own code reads besides, under ``service`` in ``served_model.json``.

    Raises:
        NotApplicableError: When a service in Python cannot run this model.
    """
    import numpy as np

    check_python(manifest)
    for source in files_below(model_folder):
        target = folder / "model" / source.relative_to(model_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source, target)
    copy_file("served_model.py", folder)
    batching, signature = manifest.batching, manifest.signature
    fields = {**manifest.runtime_fields, **({"threads": batching.threads} if batching.threads else {})}
    settings = {
        "name": service_name(manifest.name),
        "mopt": manifest.mopt_version,
        "runtime": manifest.runtime,
        "runtime_fields": fields,
        "precision": manifest.winner.effective_precision,
        "file": f"model/{model_format(manifest.format).main_file}",
        "inputs": [spec.model_dump(mode="json") for spec in signature.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in signature.outputs],
        "batch_axes": signature.batch_axes,
        "batch_size": signature.batch_size,
        "max_batch": batching.max_batch if signature.batches else 1,
        "queue_delay_us": batching.queue_delay_us,
        "instances": max(1, batching.instances),
        # Where a sample had nothing, nothing is an answer too; elsewhere it is a mistake, and not every kernel survives it.
        "may_be_empty": [spec.name for spec in signature.inputs if any(feed[spec.name].size == 0 for feed in golden)],
        "service": service or {},
    }
    (folder / "served_model.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if golden:
        feed = signature.alone(golden[0])
        arrays = {f"input_{index}": feed[spec.name] for index, spec in enumerate(signature.inputs)}
        plain: dict[str, Any] = {key: value.astype(str) if value.dtype == object else value for key, value in arrays.items()}
        np.savez(folder / "warmup.npz", **plain)


def copy_file(name: str, folder: Path, target: str = "") -> None:
    """Copy one of the files that are the same for every model, under its own name or the one that its server looks for."""
    shutil.copyfile(_FILES / name, folder / (target or name))


def threads(manifest: Manifest) -> int:
    """Threads of each instance: those of the batch settings, else those that it was measured with."""
    return manifest.batching.threads or int(manifest.runtime_fields.get("threads") or 1)


def prove(part: str, command: Sequence[str | Path], environment: Environment | None, proven: str, **variables: str) -> Proof:
    """Run a program of a system's makers on the files; what it says is the reason where it fails.

    Args:
        part: What is looked at.
        command: A program of the environment, and its arguments.
        environment: Where it is; None where it is not installed.
        proven: What is known when it ends well.
        variables: Of its environment, besides.
    """
    if environment is None:
        return Proof(part=part, state="not proven", detail="the server is not installed")
    program, *arguments = map(str, command)
    result = subprocess.run(
        [str(environment.program(program)), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": environment.path, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        timeout=_CHECK_SECONDS,
    )
    if result.returncode == 0:
        return Proof(part=part, state="proven", detail=proven)
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()[-_LINES:]
    return Proof(part=part, state="failed", detail=" | ".join(lines) or f"{program} ended with {result.returncode}")


def check_settings(environment: Environment | None, files: Mapping[str, Path]) -> Proof:
    """Check files with the server's own types, by ``module:Class``; unlike the server, with an eye on what it would ignore."""
    part = " and ".join(path.name for path in files.values())
    if environment is None:
        return Proof(part=part, state="not proven", detail="the server is not installed")
    arguments = [text for kind, path in files.items() for text in (kind, str(path))]
    result = subprocess.run(
        [str(environment.python), "-P", str(_FILES / "settings_check.py"), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_CHECK_SECONDS,
    )
    if result.returncode != 0:
        raise RuntimeError(f"the settings cannot be checked: {result.stderr[-2000:]}")
    mistakes = result.stdout.splitlines()
    proven = f"{', '.join(kind.partition(':')[2] for kind in files)} of the server knows every field"
    return Proof(part=part, state="failed" if mistakes else "proven", detail="; ".join(mistakes) or proven)


def requirements(manifest: Manifest, *others: str) -> list[str]:
    """Return what pip installs for a service: the runtime in the version that was judged, NumPy, and the server."""
    library = _DISTRIBUTIONS[manifest.runtime]
    version = manifest.versions.get(library) or (manifest.versions.get("onnxruntime", "") if library != "openvino" else "")
    return [f"{library}=={version}" if version else library, "numpy", *others]
