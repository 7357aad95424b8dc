from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from mopt.artifacts.bundle import write_artifact
from mopt.artifacts.monitoring.folder import write_monitoring
from mopt.artifacts.serving._base import ServingSystem, make_system
from mopt.artifacts.serving._exported import Exported
from mopt.records.manifest import Manifest
from mopt.system import plugins
from tests.artifacts.monitoring.prometheus import EXPORTED, check, needs_promtool
from tests.artifacts.serving.test_provisioning import built
from tests.manifests import HOSTILE, hostile, manifest
from tests.records.test_sketch import FEATURE, Sketch
from tests.workflows import artifacts


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, *systems: str, record: Manifest | None = None, drift: bool = True) -> None:
    """Write the folder for systems whose files are beside it, where there are any."""
    made = [make_system(name) for name in systems]
    write_monitoring(folder, record or built(), made, serving=folder.parent / "serving", drift=drift)


def test_each_system_that_exports_something_has_rules_and_a_dashboard(tmp_path: Path) -> None:
    write(tmp_path / "m", "triton", "sagemaker")
    assert files(tmp_path / "m") == {"README.md", "drift.rules.yml", "triton/rules.yml", "triton/dashboard.json"}
    readme = (tmp_path / "m" / "README.md").read_text()
    assert "**sagemaker** has no rules here: SageMaker lets nobody reach its containers' metrics" in readme
    assert "summary_latencies=true" in readme
    write(tmp_path / "m", "bentoml", drift=False)
    assert "bentoml/rules.yml" in files(tmp_path / "m"), "a system that comes later is added"


def test_what_there_is_no_rule_about_is_said_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, "triton", record=manifest(recipe={}, serving_profile=None), drift=False)
    rules = (tmp_path / "triton" / "rules.yml").read_text()
    for said in (
        "No rule about the latency",
        "No rule about the utilization",
        "No rule about the largest rate",
        "Not in these rules",
    ):
        assert said in rules
    write(tmp_path, "triton", drift=False)
    assert "No rule" not in (tmp_path / "triton" / "rules.yml").read_text()


@needs_promtool
@pytest.mark.parametrize("record", [hostile(), manifest(), built()], ids=["hostile", "unasked", "asked"])
def test_promtool_takes_what_is_written(record, tmp_path: Path) -> None:
    write(tmp_path, *EXPORTED, record=record)
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


def test_where_kserve_has_triton_inside_it_is_watched_as_that(tmp_path: Path) -> None:
    (tmp_path / "serving" / "kserve" / "models" / "resnet50").mkdir(parents=True)
    write(tmp_path / "m", "kserve")
    assert "nv_inference_request_success" in (tmp_path / "m" / "kserve" / "rules.yml").read_text()
    (tmp_path / "serving" / "kserve" / "models" / "served_model.json").write_text("{}")
    write(tmp_path / "m", "kserve")
    assert "request_predict_seconds_bucket" in (tmp_path / "m" / "kserve" / "rules.yml").read_text()


class Foreign(ServingSystem):
    """Another package's."""

    exported = Exported(
        source="its makers", start="foreign", named=str, matchers='m="$name"', answered="sum(rate(asked{$m}[$w]))"
    )

    def write(self, folder: Path, **_: object) -> None:
        (folder / "README.md").write_text("foreign\n")


def test_a_system_of_another_package_has_rules_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = metadata.EntryPoint("foreign", f"{__name__}:Foreign", "mopt.serving")
    monkeypatch.setattr(plugins, "_foreign", lambda kind: {"foreign": found} if kind == "serving" else {})
    made = write_artifact(
        tmp_path / "a", model=artifacts.doubling(tmp_path / "model"), manifest=built(), golden_inputs=[], golden_outputs=[],
        serving=("foreign", "bentoml"),
    )  # fmt: skip
    assert 'sum(rate(asked{m="resnet50"}[5m]))' in (tmp_path / "a" / "monitoring" / "foreign" / "rules.yml").read_text()
    assert "monitoring/foreign/dashboard.json" in made.files


def test_a_system_that_cannot_serve_the_model_is_not_watched(tmp_path: Path) -> None:
    made = write_artifact(
        tmp_path / "a", model=artifacts.doubling(tmp_path / "model"), manifest=built(), golden_inputs=[], golden_outputs=[],
        serving=("tf_serving",),
    )  # fmt: skip
    assert "serving/tf_serving/NOT-WRITTEN.md" in made.files
    assert not [name for name in made.files if name.startswith("monitoring/tf_serving")]
