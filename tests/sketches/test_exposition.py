"""Prometheus's own parser reads what is written for it."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest

from mopt.records.drift import DriftReport, FeatureDrift
from mopt.sketches.exposition import METRICS, exposition


def report(**changes: object) -> DriftReport:
    feature = FeatureDrift(
        role="input", tensor='a "quoted"\nname\\', name="value[3]", requests=40, samples=400, found=True, since=1, found_at=2,
        found_on="2026-01-01T00:00:00+00:00", evidence=1.25, psi=0.5, mean=2, usual_mean=1, shift=math.inf, beyond=0.1,
    ).model_copy(update=changes)  # fmt: skip
    return DriftReport(
        created="2026-01-02T00:00:00+00:00", mopt_version="0", name="m", found=feature.found, looks=2, requests=40,
        confidence=0.99, features=(feature,),
    )  # fmt: skip


def test_each_metric_has_its_help_its_type_and_its_samples() -> None:
    lines = exposition(report()).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("# HELP")] == list(METRICS)
    assert all(any(line.startswith(f"{name}{{") for line in lines) for name in METRICS)
    labels = 'model="m",role="input",tensor="a \\"quoted\\"\\nname\\\\",feature="value[3]"'
    assert f"mopt_drift_found{{{labels}}} 1.0" in lines
    assert f"mopt_drift_shift{{{labels}}} +Inf" in lines
    assert 'mopt_drift_last_look_timestamp_seconds{model="m"} 1767312000.0' in lines


@pytest.mark.parametrize("shift", [math.inf, -math.inf, 0.5])
def test_promtool_reads_it(shift: float) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    text = exposition(report(shift=shift))
    checked = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
