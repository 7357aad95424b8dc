"""What people read about drift: a row for each number, and what it comes to."""

from __future__ import annotations

__all__ = ["COLUMNS", "rows", "summary"]

import math

from mopt.records import units as q
from mopt.records.drift import DriftReport, FeatureDrift

COLUMNS = ("tensor", "number", "usual mean", "mean now", "shift", "PSI", "beyond", "evidence", "verdict")
_TOLD = 3
"""Numbers of a tensor that are told in words."""
_MODERATE, _LARGE = 0.1, 0.25
"""Of the population stability index, by convention (Siddiqi, "Credit Risk Scorecards", 2006)."""


def rows(report: DriftReport, most: int) -> list[list[str]]:
    """Return the cells of all that has drifted, and of up to ``most`` others, most evidence first."""
    others = [feature for feature in report.features if not feature.found][:most]
    return [_row(feature) for feature in (*report.drifted, *others)]


def _row(feature: FeatureDrift) -> list[str]:
    return [
        f"{feature.role} {feature.tensor}", feature.name, q.digits(feature.usual_mean), q.digits(feature.mean),
        f"{'+' if feature.shift > 0 else ''}{q.digits(feature.shift)} sd" if feature.shift else "0", q.digits(feature.psi, 2),
        f"{q.digits(100 * feature.beyond)} %", f"{q.digits(100 * feature.evidence)} %",
        f"DRIFT, look {feature.found_at}" if feature.found else "",
    ]  # fmt: skip


def summary(report: DriftReport) -> list[str]:
    """Return what the look says, line by line."""
    hidden = len(report.features) - len(report.drifted)
    verdict = (
        f"result    {q.count(len(report.drifted), 'number')} of {len(report.features)} drifted"
        if report.found
        else f"result    no drift found in {q.count(hidden, 'number')}"
    )
    often = f"{1 / (1 - report.confidence):,.0f}"
    looks = (
        f"looks     {report.looks}, {report.requests:,} requests; over all of them one false alarm in {often} artifacts at most"
    )
    return [
        *_sentences(report),
        *(f"note      {note}" for note in report.notes),
        looks,
        verdict,
    ]


def _sentences(report: DriftReport) -> list[str]:
    """The clearest of each tensor; the rest is in the table."""
    by_tensor: dict[tuple[str, str], list[FeatureDrift]] = {}
    for feature in report.drifted:
        by_tensor.setdefault((feature.role, feature.tensor), []).append(feature)
    lines = []
    for (role, tensor), features in by_tensor.items():
        lines += [_sentence(feature) for feature in features[:_TOLD]]
        if more := len(features) - _TOLD:
            lines += [f"drift     {role} {tensor}: {q.count(more, 'number')} more"] if more > 0 else []
    return lines


def _sentence(feature: FeatureDrift) -> str:
    """One number that has drifted, in words."""
    where = f"drift     {feature.role} {feature.tensor}, {feature.name}: "
    change = f"{q.digits(feature.usual_mean)} in the samples, {q.digits(feature.mean)} in the requests"
    if math.isfinite(feature.shift) and feature.shift:
        change += f" ({'+' if feature.shift > 0 else ''}{q.digits(feature.shift)} standard deviations)"
    size = "large" if feature.psi > _LARGE else "moderate" if feature.psi > _MODERATE else "small"
    change += f"; PSI {q.digits(feature.psi, 2)}, {size}"
    if feature.beyond > 0:
        change += f"; {q.digits(100 * feature.beyond)} % beyond every sample"
    if feature.since > 1:
        change += f"; since look {feature.since}"
    if feature.categories:
        changed = ", ".join(
            f"{name} {q.digits(100 * before)} % to {q.digits(100 * now)} %"
            for name, (before, now) in list(feature.categories.items())[:2]
        )
        change += f"; {changed}"
    return where + change
