"""The folder ``monitoring`` of an artifact: rules and a dashboard for each of its serving systems, and the rules for drift."""

from __future__ import annotations

__all__ = ["FOLDER", "write_monitoring"]

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mopt.artifacts.monitoring.dashboard import dashboard
from mopt.artifacts.monitoring.rules import drift_groups, recorded, render, system_groups
from mopt.artifacts.monitoring.thresholds import Thresholds, thresholds
from mopt.artifacts.serving._base import ServingSystem
from mopt.artifacts.serving._exported import Exported
from mopt.records.manifest import Manifest

FOLDER = "monitoring"
_RULES = "rules.yml"
_DASHBOARD = "dashboard.json"
_DRIFT = "drift.rules.yml"
_NOTHING = "nothing is known of what it tells Prometheus"


def write_monitoring(folder: Path, manifest: Manifest, systems: Sequence[ServingSystem], *, serving: Path, drift: bool) -> None:
    """Write ``<system>/rules.yml``, ``<system>/dashboard.json``, ``drift.rules.yml`` and ``README.md``.

    Args:
        folder: To be made, or to be added to.
        manifest: What was built.
        systems: Those that have files; where there can be no rules is said in the README.
        serving: The folder with a folder of each of them.
        drift: Whether the artifact has a sketch for ``mopt drift``.
    """
    folder.mkdir(exist_ok=True)
    limits = thresholds(manifest)
    exporting = {system.name: system.exported_by(serving / system.name) for system in systems}
    for system, exported in exporting.items():
        if exported is not None:
            groups = system_groups(exported, manifest.name, limits)
            (folder / system).mkdir(exist_ok=True)
            (folder / system / _RULES).write_text(render(groups, _header(manifest, system, exported, limits)), encoding="utf-8")
            drawn = dashboard(manifest.name, system, recorded(groups), limits)
            (folder / system / _DASHBOARD).write_text(json.dumps(drawn, indent=1) + "\n", encoding="utf-8")
    if drift:
        header = [f"{manifest.name}: what mopt drift --prometheus FILE found. Written by mopt {manifest.mopt_version}."]
        (folder / _DRIFT).write_text(render(drift_groups(manifest.name), header), encoding="utf-8")
    silent = {system.name: system.unexported for system in systems if exporting[system.name] is None}
    (folder / "README.md").write_text("\n".join(_readme(exporting, silent, drift=drift)) + "\n", encoding="utf-8")


def _header(manifest: Manifest, system: str, exported: Exported, limits: Thresholds) -> list[str]:
    header = [
        f"{manifest.name} on {system}. Written by mopt {manifest.mopt_version}; metric names as {exported.source}.",
        f"Start it so that it exports them: {exported.start}",
    ]
    if limits.p99_s is None:
        header.append("No rule about the latency: no p99 was asked for. Build with --p99.")
    if limits.capacity is None:
        header.append("No rule about the utilization: nothing was measured.")
    if limits.peak_rate is None:
        header.append("No rule about the largest rate of a replica: no traffic was given. Build with --rate and --p99.")
    return header + [f"Not in these rules: {silent}." for silent in exported.silent]


def _readme(exporting: Mapping[str, Exported | None], silent: Mapping[str, str], *, drift: bool) -> list[str]:
    lines = ["# Monitoring", ""]
    for system, exported in exporting.items():
        if exported is not None:
            files = f"add `{system}/{_RULES}` to `rule_files` of Prometheus, and import `{system}/{_DASHBOARD}` in Grafana"
            lines.append(f"- **{system}**: start it as `{exported.start}`, {files}.")
    lines += [f"- **{system}** has no rules here: {where or _NOTHING}." for system, where in silent.items()]
    if drift:
        lines += [
            f"- **Drift**: add `{_DRIFT}` to `rule_files`, and run daily, where the node exporter has a textfile collector:",
            "",
            "```console",
            "$ mopt drift ARTIFACT --requests captured.jsonl --state drift.json --prometheus /var/lib/node_exporter/drift.prom",
            "```",
        ]
    return [
        *lines,
        "",
        "Each rule has a comment that says where its figure comes from. `promtool check rules` reads the files.",
    ]
