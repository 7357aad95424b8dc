import json

import pytest

from mopt.errors import UserError
from mopt.loadgen.load_plan import LoadPlan
from mopt.workflows._sources import read_samples
from mopt.workflows.bench import bench_artifact
from tests.small import digits


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    import mopt
    from mopt.system.store import Store

    folder = tmp_path_factory.mktemp("bench")
    small = digits(folder)
    built = mopt.build(
        model=str(small.model), data=str(small.data), out=folder / "out", store=Store(folder / "cache"),
        search={"candidates": ("onnxruntime-fp32",), "max_batch": 4}, traffic={"rate": 200, "p99": "50ms", "spare": 1},
    )  # fmt: skip
    return small, built


@pytest.mark.slow
def test_a_build_with_traffic_says_how_to_serve_it(artifact):
    manifest = artifact[1].manifest
    batching, profile = manifest.batching, manifest.serving_profile
    assert (profile.instance_groups[0].instances, profile.instance_groups[0].threads) == (1, profile.machine.cores)
    assert batching.rate == 200
    assert batching.spare_replicas == 1
    assert batching.replicas >= 2
    assert batching.predicted_p99_ms <= 50
    assert len(batching.alternatives) >= len(profile.instance_groups[0].concurrent)
    config = (artifact[1].folder / "serving/triton/digits/config.pbtxt").read_text()
    assert f"count: {batching.instances} kind" in config
    assert f'"intra_op_thread_count" value {{ string_value: "{batching.threads}"' in config
    page = (artifact[1].folder / "report.html").read_text()
    assert "Ways to serve it" in page
    assert "rule of thumb" in page


@pytest.mark.slow
def test_a_replica_is_profiled_and_its_largest_rate_is_searched_for(artifact):
    found = bench_artifact(artifact[1].folder, LoadPlan(p99_ms=20.0, seconds=1.0), max_batch=4)
    assert found.largest
    assert found.holds is None
    assert max(test.rate for test in found.tests if test.holds(20.0)) == found.largest
    assert all(test.predicted_p99_ms and test.mean_batch >= 1 for test in found.tests)
    assert found.profile.operators


@pytest.mark.slow
def test_a_rate_that_cannot_hold_is_said(artifact):
    found = bench_artifact(artifact[1].folder, LoadPlan(rate=1e6, p99_ms=1.0, seconds=1.0), max_batch=1)
    assert found.holds is False


@pytest.mark.slow
def test_a_changed_artifact_is_not_run(artifact, tmp_path):
    import shutil

    shutil.copytree(artifact[1].folder, tmp_path / "changed")
    with (tmp_path / "changed/model/model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(UserError, match="not what was built"):
        bench_artifact(tmp_path / "changed")


@pytest.mark.slow
def test_samples_of_the_users_own_are_read_as_the_recipe_says(artifact):
    small, built = artifact
    samples = read_samples(built.folder, str(small.data))
    assert samples[0]["pixels"].shape == (1, 64)
    with pytest.raises(UserError):
        read_samples(built.folder, "nothing.npz")


@pytest.mark.slow
def test_the_command_writes_a_profile_that_mopt_size_reads(artifact, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from mopt.cli import app

    monkeypatch.chdir(tmp_path)
    folder = str(artifact[1].folder)
    runner = CliRunner()
    found = runner.invoke(app, ["bench", folder, "--max-batch", "4", "--quiet", "--out", "p.json"])
    assert found.exit_code == 0, found.output
    assert "instances x threads" in found.output
    assert runner.invoke(app, ["bench", folder, "--out", "p.json"]).exception.exit_code == 2
    size = ["size", "p.json", "--rate", "100000", "--p99", "50ms", "--price", "0.1", "--compare", "aws-c*", "--json", "--quiet"]
    sizing = runner.invoke(app, size)
    assert sizing.exit_code == 0, sizing.output
    lines = json.loads(sizing.output)["options"]
    assert lines[0]["origin"] == "measured"
    assert {line["origin"] for line in lines[1:]} == {"projected"}
    assert all(line["monthly_usd"]["low"] <= line["monthly_usd"]["high"] for line in lines)
    assert (tmp_path / "digits-sizing.html").read_text().count("<svg") == 2
