"""The README of a serving system's folder: the one command that starts it, a request that is answered, what to know."""

from __future__ import annotations

__all__ = ["DATATYPES", "golden_request", "write_readme", "write_request"]

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopt.model.signature import KSERVE_DATATYPES, Feed
from mopt.records.manifest import Manifest
from mopt.records.units import digits, milliseconds

DATATYPES = {dtype: name for dtype, name in KSERVE_DATATYPES.items() if dtype != "bfloat16"}


def write_readme(
    folder: Path, *, title: str, manifest: Manifest, start: str, request: str, notes: Sequence[str] = (), replicas: str = ""
) -> None:
    """Write ``README.md``.

    Args:
        folder: Of the serving system.
        title: Name of the system as its makers write it.
        manifest: Of the artifact.
        start: Shell command that starts it, from this folder.
        request: Shell command that sends one golden sample.
        notes: What people must know, a line each.
        replicas: How many of them are started, in this system's words; empty for the plain sentence.
    """
    batching = manifest.batching
    parts = [f"# {_plain(manifest.name)} in {title}", ""]
    if not manifest.deployable:
        parts += [f"**Not deployable**: {_plain(manifest.not_deployable_because)}.", ""]
    parts += ["Start it, from this folder:", "", "```console", *start.splitlines(), "```", ""]
    parts += ["Ask it, with a real sample:", "", "```console", *request.splitlines(), "```", ""]
    precision = f", {manifest.winner.effective_precision}" if manifest.winner.effective_precision else ""
    parts += [
        f"It serves {_plain(manifest.chosen)} ({manifest.runtime}{precision}), as mopt {manifest.mopt_version} judged it."
    ]
    if batching.rate is not None:
        predicted = batching.predicted_p99_ms
        latency = "" if predicted is None else f", p99 {milliseconds(predicted)}; mopt bench --server shows what it adds"
        parts += [
            replicas or f"Planned for {digits(batching.rate)} requests per second on {batching.replicas} like this{latency}."
        ]
    parts += ["", *(f"- {_plain(note)}" for note in notes)]
    (folder / "README.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def golden_request(manifest: Manifest, golden: Sequence[Feed]) -> dict[str, Any] | None:
    """Return a golden sample as a request of KServe's protocol, version 2, in JSON; None where JSON cannot carry it."""
    if not golden or any(spec.dtype not in DATATYPES for spec in manifest.signature.inputs):
        return None
    signature = manifest.signature
    feed = signature.stack([golden[0]] * (signature.batch_size or 1))
    entries = []
    for spec in signature.inputs:
        value = feed[spec.name]
        entries.append(
            {
                "name": spec.name,
                "datatype": DATATYPES[spec.dtype],
                "shape": list(value.shape) or [1],
                "data": [str(item) for item in value.ravel()] if spec.dtype == "str" else value.ravel().tolist(),
            }
        )
    return {"inputs": entries}


def write_request(folder: Path, manifest: Manifest, golden: Sequence[Feed]) -> None:
    """Write ``request.json``, where there is a golden sample that JSON can carry."""
    if (request := golden_request(manifest, golden)) is not None:
        (folder / "request.json").write_text(json.dumps(request) + "\n", encoding="utf-8")


def _plain(text: str) -> str:
    """One line without what Markdown or HTML would read."""
    return "".join(char if char.isprintable() and char not in "<>`[]*|" else " " for char in text)
