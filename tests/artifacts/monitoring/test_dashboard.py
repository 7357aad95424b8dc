"""The dashboard: over what is recorded, in Grafana's own terms, nothing on top of anything else."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest

from mopt.artifacts.monitoring.dashboard import dashboard
from mopt.artifacts.monitoring.rules import recorded, system_groups
from tests.artifacts.monitoring.prometheus import EXPORTED
from tests.artifacts.monitoring.test_rules import LIMITS
from tests.manifests import HOSTILE


def drawn(system: str = "triton", name: str = "m") -> dict[str, Any]:
    return dashboard(name, system, recorded(system_groups(EXPORTED[system], name, LIMITS)), LIMITS)


def panels(system: str = "triton") -> list[dict[str, Any]]:
    return [panel for panel in drawn(system)["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("system", EXPORTED)
def test_every_panel_asks_for_a_series_that_the_rules_record_or_mopt_drift_writes(system: str) -> None:
    series = recorded(system_groups(EXPORTED[system], "m", LIMITS)) | {"mopt_drift_evidence", "mopt_drift_psi"}
    for panel in panels(system):
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["expr"].partition("{")[0] in series
            assert 'model="m"' in target["expr"]


def test_the_four_come_first_and_what_is_not_told_is_left_out() -> None:
    assert [panel["title"] for panel in panels()[:4]] == ["p99", "Throughput", "Utilization", "Errors"]
    titles = {panel["title"] for panel in panels()}
    assert {"Mean time in the queue", "Mean batch size", "Evidence of drift"} <= titles
    assert "Mean time in the queue" not in {panel["title"] for panel in panels("bentoml")}


def test_lines_are_where_the_alerts_are() -> None:
    red = {panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:] for panel in panels()}
    assert red["p99"] == [{"color": "red", "value": 0.1}]
    assert red["Utilization"] == [{"color": "red", "value": 0.8}]
    assert red["Mean batch size"] == [{"color": "red", "value": 8.0}]
    assert red["Throughput"] == []
    without = dashboard("m", "triton", {"mopt:latency_p99:seconds"}, dataclasses.replace(LIMITS, p99_s=None))
    assert without["panels"][1]["fieldConfig"]["defaults"]["thresholds"]["steps"][1:] == []


@pytest.mark.parametrize("system", EXPORTED)
def test_no_two_panels_overlap_and_each_has_a_number_of_its_own(system: str) -> None:
    placed = drawn(system)["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    for panel in placed:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for first, second in itertools.combinations([panel["gridPos"] for panel in placed], 2):
        apart = (
            first["x"] + first["w"] <= second["x"] or second["x"] + second["w"] <= first["x"]
            or first["y"] + first["h"] <= second["y"] or second["y"] + second["h"] <= first["y"]
        )  # fmt: skip
        assert apart, (first, second)


def test_a_hostile_name_stays_a_string() -> None:
    assert json.loads(json.dumps(drawn(name=HOSTILE)))["title"] == f"{HOSTILE} on triton"


@pytest.mark.parametrize("system", EXPORTED)
def test_grafanas_own_types_keep_every_key_of_it(system: str) -> None:
    """Grafana's types, generated from its schema, drop what they do not know: all that is written must come back."""
    pytest.importorskip("grafana_foundation_sdk", reason="pip install grafana-foundation-sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    written = drawn(system)
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(written)))
    assert _lost(written, again) == []
    misspelt = {**written, "grafTooltip": 1}
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(misspelt)))
    assert _lost(misspelt, again) == [".grafTooltip"], "what its types do not know is lost"


def _lost(written: Any, again: Any, where: str = "") -> list[str]:
    """The places of all that is in the one and not in the other; an empty list or text may be left out."""
    if isinstance(written, dict):
        return [
            place for key, value in written.items()
            for place in ([f"{where}.{key}"] if key not in again and value not in (None, [], "", {})
                          else _lost(value, again[key], f"{where}.{key}") if key in again else [])
        ]  # fmt: skip
    if isinstance(written, list):
        return [place for index, value in enumerate(written) for place in _lost(value, again[index], f"{where}[{index}]")]
    return [] if written == again else [where]
