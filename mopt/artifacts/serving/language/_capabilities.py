"""What servers of language models support: architectures, packings and schemes, out of their own code.

``_capabilities.json`` is written by ``docs/generate_capabilities.py``.
"""

from __future__ import annotations

__all__ = ["Capabilities", "capabilities", "nearest_names", "scheme_name", "why_not_on_cpu", "why_not_supported"]

import dataclasses
import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mopt.artifacts.serving.language._base import ServedLanguageModel
from mopt.model.quantization import LayerQuantization

_TABLE = Path(__file__).with_suffix(".json")
_INT4_TILE = 32
"""Inputs and outputs of a layer of INT4 that vLLM's kernel for CPUs takes at once; it refuses what is no multiple."""


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a server supports.

    Attributes:
        source: Its version or revision.
        date: Of it.
        architectures: Classes of transformers.
        schemes: By packing and scheme what vLLM said of its CPU kernels: ``cpu`` is the kernel that ran, ``judged`` the one
            that ran with what mopt's runtime fills in, ``why`` the reason for neither. Empty for other servers.
        group_sizes: Of INT4 by packing; any where it is missing.
        options: That its command line takes; empty where they were not read.
    """

    source: str
    date: str
    architectures: tuple[str, ...]
    schemes: Mapping[str, Mapping[str, Mapping[str, str]]]
    group_sizes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    options: tuple[str, ...] = ()


@functools.cache
def capabilities(server: str) -> Capabilities:
    """Return what a server supports; it is named as its file is."""
    entry: dict[str, Any] = json.loads(_TABLE.read_text(encoding="utf-8"))[server]
    return Capabilities(
        source=entry["source"],
        date=entry["date"],
        architectures=tuple(entry["architectures"]),
        schemes=entry["schemes"],
        group_sizes={method: tuple(sizes) for method, sizes in entry.get("group_sizes", {}).items()},
        options=tuple(entry.get("options", ())),
    )


def scheme_name(scheme: LayerQuantization) -> str:
    """Return how the table calls a scheme: weights, then inputs if they are rounded, such as ``int4`` or ``fp8/fp8-static``."""
    weights, inputs = scheme.weights, scheme.activations
    name = f"int{weights.bits}" if weights.kind == "int" else weights.kind
    name += "" if weights.symmetric or weights.kind != "int" else "-asymmetric"
    if inputs is None:
        return name
    return f"{name}/{inputs.kind}" + ("" if inputs.dynamic or inputs.kind in ("mxfp4", "nvfp4") else "-static")


def why_not_supported(server: str, served: ServedLanguageModel) -> str:
    """Return why a server does not load a checkpoint, with what it would load in its place; nothing when it does."""
    known = capabilities(server)
    if served.architecture not in known.architectures:
        near = nearest_names(served.architecture, known.architectures)
        return f"{known.source} does not run {served.architecture}" + (f"; it runs {near}" if near else "")
    if served.kv_cache == "int8":
        return f"{known.source} reads no INT8 scales of the KV cache out of a checkpoint; fp8 it does"
    if served.method == "none":
        return ""
    if served.method not in known.schemes:
        return f"{known.source} does not load {served.method}; it loads {', '.join(known.schemes)}"
    if served.scheme is None:
        return ""
    name = scheme_name(served.scheme)
    if name not in known.schemes[served.method]:
        return f"{known.source} does not load {name} of {served.method}; it loads {', '.join(known.schemes[served.method])}"
    sizes = known.group_sizes.get(served.method, ())
    group = served.scheme.weights.group_size
    if sizes and served.scheme.weights.bits == 4 and group not in sizes:
        return f"{known.source} takes {served.method} in groups of {' or '.join(map(str, sizes))}, not of {group}"
    return ""


def why_not_on_cpu(served: ServedLanguageModel, method: str = "") -> str:
    """Return why vLLM cannot run a checkpoint on a CPU, where it is judged; nothing when it can.

    Args:
        served: What is to be served.
        method: The packing that is scored, where it is another one than is served.
    """
    method = method or served.method
    if served.scheme is None or method == "none":
        return ""
    known, name, weights = capabilities("vllm"), scheme_name(served.scheme), served.scheme.weights
    entry = known.schemes.get(method, {}).get(name, {})
    if not (entry.get("cpu") or entry.get("judged")):
        runs = [scheme for scheme, ran in known.schemes.get(method, {}).items() if ran.get("cpu") or ran.get("judged")]
        return f"{known.source} has no kernel for {name} of {method} on a CPU; for {', '.join(runs) or 'nothing of it'} it has"
    if weights.kind == "int" and weights.bits == 4:
        if weights.group_size > 0 and weights.group_size % 2:
            return f"its kernel for CPUs takes groups of an even number of inputs, not of {weights.group_size}"
        if served.scheme.inputs % _INT4_TILE or served.scheme.outputs % _INT4_TILE:
            shape = f"{served.scheme.outputs} x {served.scheme.inputs}"
            return f"its kernel for CPUs takes layers of multiples of {_INT4_TILE}, not of {shape}"
    return ""


def nearest_names(word: str, words: Iterable[str]) -> str:
    """Return up to three names that are most like a word."""
    return ", ".join(difflib.get_close_matches(word, list(words), n=3, cutoff=0.5))
