from __future__ import annotations

import json
from pathlib import Path

import pytest

from mopt.artifacts.bundle import write_artifact
from mopt.artifacts.monitoring.folder import write_monitoring
from tests.artifacts.monitoring.prometheus import check, needs_promtool
from tests.artifacts.serving.test_provisioning import built
from tests.manifests import HOSTILE, hostile, manifest
from tests.records.test_sketch import FEATURE, Sketch
from tests.workflows import artifacts


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_system_that_exports_something_has_rules_and_a_dashboard(tmp_path: Path) -> None:
    write_monitoring(tmp_path / "m", built(), ["triton", "litserve"], drift=True)
    assert files(tmp_path / "m") == {"README.md", "drift.rules.yml", "triton/rules.yml", "triton/dashboard.json"}
    readme = (tmp_path / "m" / "README.md").read_text()
    assert "**litserve** has no rules here" in readme
    assert "summary_latencies=true" in readme
    write_monitoring(tmp_path / "m", built(), ["bentoml"], drift=False)
    assert "bentoml/rules.yml" in files(tmp_path / "m"), "a system that comes later is added"


def test_what_there_is_no_rule_about_is_said_in_the_file(tmp_path: Path) -> None:
    write_monitoring(tmp_path, manifest(recipe={}, serving_profile=None), ["triton"], drift=False)
    rules = (tmp_path / "triton" / "rules.yml").read_text()
    for said in (
        "No rule about the latency",
        "No rule about the utilization",
        "No rule about the largest rate",
        "Not in these rules",
    ):
        assert said in rules
    write_monitoring(tmp_path, built(), ["triton"], drift=False)
    assert "No rule" not in (tmp_path / "triton" / "rules.yml").read_text()


@needs_promtool
@pytest.mark.parametrize("record", [hostile(), manifest(), built()], ids=["hostile", "unasked", "asked"])
def test_promtool_takes_what_is_written(record, tmp_path: Path) -> None:
    write_monitoring(tmp_path, record, ["triton", "bentoml"], drift=True)
    check(*sorted(tmp_path.rglob("*.yml")))
    assert json.loads((tmp_path / "triton" / "dashboard.json").read_text())["title"].startswith(record.name)
    assert HOSTILE.count("\n") == 1, "a name that would end a comment"


@pytest.mark.parametrize("sketch", [None, Sketch(samples=9, class_scores=(), vocabularies={}, features=(FEATURE,))])
def test_an_artifact_carries_it_and_its_digests(sketch: Sketch | None, tmp_path: Path) -> None:
    made = write_artifact(
        tmp_path / "a", model=artifacts.doubling(tmp_path / "model"), manifest=built(), golden_inputs=[], golden_outputs=[],
        reports=lambda _: {}, serving=("triton",), sketch=sketch,
    )  # fmt: skip
    carried = {name for name in made.files if name.startswith("monitoring/")}
    assert "monitoring/triton/rules.yml" in carried
    assert ("monitoring/drift.rules.yml" in carried) == (sketch is not None) == ("sketch.json" in made.files)
