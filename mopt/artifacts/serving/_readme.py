"""The README of a serving system's folder: the one command that starts it, a request that is answered, what to know."""

from __future__ import annotations

__all__ = ["DATATYPES", "golden_columns", "golden_request", "write_readme", "write_request"]

import json
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from mopt.model.signature import KSERVE_DATATYPES, Feed, listed
from mopt.records.manifest import Manifest
from mopt.records.units import digits, milliseconds

_REQUEST = "request.json"
_NO_REQUEST = "mopt verify ARTIFACT --server URL  # no request.json: no sample is here that JSON can carry"
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
        request: Shell command that sends one golden sample; not written where it needs a ``request.json`` that is not there.
        notes: What people must know, a line each.
        replicas: How many of them are started, in this system's words; empty for the plain sentence.
    """
    batching = manifest.batching
    if _REQUEST in request and not (folder / _REQUEST).is_file():
        request = _NO_REQUEST
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
    if (samples := manifest.signature.batch_size or 1) > 1:
        notes = [
            f"The model takes {samples} samples at once, no more and no fewer: so many are a request, or an instance.",
            *notes,
        ]
    parts += ["", *(f"- {_plain(note)}" for note in notes)]
    (folder / "README.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def golden_request(manifest: Manifest, golden: Sequence[Feed], binary: Container[str] = ()) -> dict[str, Any] | None:
    """Return a golden sample as a request of KServe's protocol, version 2, in JSON; None where JSON cannot carry it.

    Args:
        manifest: Of the artifact.
        golden: Samples.
        binary: Types of inputs and outputs that the server takes and gives as raw bytes alone.
    """
    feed, signature = _golden_feed(manifest, golden), manifest.signature
    if feed is None or any(spec.dtype in binary for spec in (*signature.inputs, *signature.outputs)):
        return None
    entries = [
        {
            "name": spec.name,
            "datatype": DATATYPES[spec.dtype],
            "shape": list(feed[spec.name].shape) or [1],
            "data": listed(feed[spec.name].ravel()),
        }
        for spec in signature.inputs
    ]
    return {"inputs": entries}


def golden_columns(manifest: Manifest, golden: Sequence[Feed], *, row: bool = False) -> dict[str, Any] | None:
    """Return the inputs of a golden sample as lists by name; None where JSON cannot carry them.

    Args:
        manifest: Of the artifact.
        golden: Samples.
        row: Without the batch axis, as ``instances`` have them.
    """
    feed, axes = _golden_feed(manifest, golden), manifest.signature.row_axes if row else {}
    if feed is None:
        return None
    return {name: listed(value.take(0, axis=axes[name]) if name in axes else value) for name, value in feed.items()}


def _golden_feed(manifest: Manifest, golden: Sequence[Feed]) -> Feed | None:
    signature = manifest.signature
    if not golden or any(spec.dtype not in DATATYPES for spec in signature.inputs):
        return None
    feed = signature.alone(golden[0])
    return {spec.name: feed[spec.name] for spec in signature.inputs}


def write_request(folder: Path, manifest: Manifest, golden: Sequence[Feed], binary: Container[str] = ()) -> None:
    """Write ``request.json``, where there is a golden sample that JSON can carry; see :func:`golden_request`."""
    if (request := golden_request(manifest, golden, binary)) is not None:
        (folder / _REQUEST).write_text(json.dumps(request) + "\n", encoding="utf-8")


def _plain(text: str) -> str:
    """One line without what Markdown or HTML would read."""
    return "".join(char if char.isprintable() and char not in "<>`[]*|" else " " for char in text)
