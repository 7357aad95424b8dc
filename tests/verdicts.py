"""Verdicts of a gate as it would write them."""

from __future__ import annotations

from typing import Any

from mopt.records.measurement import Estimate
from mopt.records.verdict import Check, ComparedModel, GateVerdict, Verdict, overall
from tests import manifests

STAMP = {"created": "2026-11-22T20:00:00+00:00", "mopt_version": "0.1.0"}
WORD: dict[str, tuple[float, float, float]] = {
    "pass": (0.002, -0.004, 0.008),
    "fail": (-0.064, -0.079, -0.051),
    "inconclusive": (-0.007, -0.015, 0.001),
}
"""A change with its interval that a limit of one percentage point turns into each verdict."""


def quality(verdict: Verdict = "pass", **changes: Any) -> Check:
    """The accuracy on 1,200 samples, where a drop of one percentage point is allowed."""
    value, low, high = WORD[verdict]
    fields: dict[str, Any] = {
        "name": "accuracy", "kind": "quality", "unit": "share", "candidate": 0.98 + value, "baseline": 0.98,
        "change": Estimate(value=value, low=low, high=high, count=1200), "relative": False, "limit": "-1pp", "allowed": -0.01,
        "confidence": 0.95, "verdict": verdict, "method": "score interval of paired proportions; exact McNemar",
        "p_value": 0.4, "lost": 5, "gained": 7, "power": 0.83, "detectable": 0.012, "needed": 2400,
    }  # fmt: skip
    return Check(**(fields | changes))


def cost(verdict: Verdict = "pass", **changes: Any) -> Check:
    """The median latency at batch 1, where 10 % more is allowed."""
    value, low, high = {"pass": (0.02, 0.0, 0.04), "fail": (0.2, 0.15, 0.25), "inconclusive": (0.09, 0.05, 0.13)}[verdict]
    fields: dict[str, Any] = {
        "name": "p50 at batch 1", "kind": "speed", "unit": "ms", "candidate": 4.2 * (1 + value), "baseline": 4.2,
        "change": Estimate(value=value, low=low, high=high, count=12), "relative": True, "limit": "+10%", "allowed": 0.1,
        "confidence": 0.99, "verdict": verdict, "method": "12 pairs of processes, in turns",
    }  # fmt: skip
    return Check(**(fields | changes))


def compared(name: str, **changes: Any) -> ComparedModel:
    fields: dict[str, Any] = {
        "name": name, "source": f"{name}.onnx", "digest": name[0] * 64, "runtime": "onnxruntime", "size_bytes": 1_000_000,
    }  # fmt: skip
    return ComparedModel(**(fields | changes))


def gate(*checks: Check, **changes: Any) -> GateVerdict:
    fields: dict[str, Any] = {
        "verdict": overall(checks), "candidate": compared("new"), "baseline": compared("old"), "samples": 1200,
        "data": "a.npz", "confidence": 0.95, "inconclusive": "reject", "deterministic": True, "checks": checks,
        "machine": manifests.manifest().machine, "noise": {"load": 0.3}, **STAMP,
    }  # fmt: skip
    return GateVerdict(**(fields | changes))
