import json
import math

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.loadgen.find_rate import find_largest, requests_for, summarize_load
from mopt.loadgen.load_plan import LoadPlan
from mopt.records.benchmark import LoadTest
from mopt.records.measurement import Estimate
from mopt.workflows._sources import read_samples
from mopt.workflows.bench import bench_artifact
from tests.small import digits


def load(rate, p99):
    value = Estimate(value=p99, low=p99, high=p99, count=1000)
    return LoadTest(rate=rate, achieved=rate, requests=1000, p50=value, p95=value, p99=value, p999=value)


@pytest.mark.parametrize("guess", [10, 95, 100, 130, 3000])
def test_the_largest_rate_is_found_from_any_guess_with_few_tests(guess):
    tests = []

    def test(rate):
        tests.append(rate)
        return load(rate, 10.0 if rate <= 100 else 1e4)

    found = find_largest(test, guess, 50.0)
    assert 95 <= found <= 100
    assert len(tests) <= 12


def test_no_rate_that_holds_is_no_rate():
    assert find_largest(lambda rate: load(rate, 1e4), 100.0, 50.0) is None


def test_a_rate_holds_when_the_p99_is_within_and_nearly_all_are_answered():
    assert load(10, 49).holds(50)
    assert not load(10, 51).holds(50)
    assert not load(10, 49).model_copy(update={"failed": 20}).holds(50)


def test_unanswered_requests_are_counted_and_no_part_of_a_percentile():
    latencies = np.array([1.0] * 980 + [math.nan] * 20)
    found = summarize_load(100.0, latencies, 10.0)
    assert (found.requests, found.failed, found.p999.value, found.achieved) == (1000, 20, 1.0, 98.0)
    with pytest.raises(UserError, match="not one request"):
        summarize_load(100.0, np.array([math.nan]), 1.0)


def test_tests_have_enough_requests_for_a_p99():
    assert requests_for(1.0, 10.0) == 1000
    assert requests_for(500.0, 10.0) == 5000


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
