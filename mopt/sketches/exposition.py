"""What Prometheus reads of a look, in its text format, through the textfile collector of the node exporter."""

from __future__ import annotations

__all__ = ["METRICS", "exposition"]

import datetime
import math
from collections.abc import Mapping

from mopt.records.drift import DriftReport, FeatureDrift

METRICS: Mapping[str, str] = {
    "mopt_drift_found": "Whether the requests have drifted from the samples of the build: 1 once it was found.",
    "mopt_drift_evidence": "Evidence of drift as a share of what is needed, both as logarithms; 1 and more is drift.",
    "mopt_drift_psi": "Population stability index of the requests against the samples.",
    "mopt_drift_shift": "Difference of the means in standard deviations of the samples.",
    "mopt_drift_beyond_share": "Share of the requests beyond every sample.",
    "mopt_drift_requests": "Requests that were compared, in all looks.",
    "mopt_drift_looks": "How many times requests were compared.",
    "mopt_drift_last_look_timestamp_seconds": "When requests were compared last.",
}
"""All metrics, each with its help; all are gauges, for a new state begins again at 0."""


def exposition(report: DriftReport) -> str:
    """Return the metrics of a report in Prometheus's text exposition format 0.0.4."""
    model = {"model": report.name}
    created = datetime.datetime.fromisoformat(report.created).timestamp()
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {name: [] for name in METRICS}
    for feature in report.features:
        for name, value in _values(feature).items():
            samples[name].append((model | _labels(feature), value))
    samples["mopt_drift_requests"].append((model, report.requests))
    samples["mopt_drift_looks"].append((model, report.looks))
    samples["mopt_drift_last_look_timestamp_seconds"].append((model, created))
    lines = []
    for name, values in samples.items():
        lines += [f"# HELP {name} {METRICS[name]}", f"# TYPE {name} gauge"]
        lines += [f"{name}{{{_labelled(labels)}}} {_number(value)}" for labels, value in values]
    return "\n".join(lines) + "\n"


def _values(feature: FeatureDrift) -> dict[str, float]:
    return {
        "mopt_drift_found": float(feature.found),
        "mopt_drift_evidence": feature.evidence,
        "mopt_drift_psi": feature.psi,
        "mopt_drift_shift": feature.shift,
        "mopt_drift_beyond_share": feature.beyond,
    }


def _labels(feature: FeatureDrift) -> dict[str, str]:
    return {"role": feature.role, "tensor": feature.tensor, "feature": feature.name}


def _labelled(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
