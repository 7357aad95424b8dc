import dataclasses

import pytest

from mopt.errors import UserError
from mopt.profiles.load import cpu_load
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.progress import Silent
from mopt.records.baseline import Speed
from mopt.records.measurement import Estimate
from mopt.regression.performance import ComparisonSetup, compare_performance, size_check
from tests.cli.results import stored_baseline
from tests.passes import graphs
from tests.regression.cases import labelled, product, runnable
from tests.search.cases import Notes
from tests.search.test_screening import SLOW


@pytest.fixture
def setup(tmp_path):
    model = product(tmp_path / "new")
    return ComparisonSetup(
        runnable(model), runnable(product(tmp_path / "old"), "old"), None, labelled(tmp_path / "samples", 8), (1,), 0.9, 3.0,
        NoiseMonitor(wait_seconds=0.5),
    )  # fmt: skip


def stored(**changes):
    return stored_baseline().model_copy(update=changes)


def test_sizes_are_exact_and_held_to_their_limit(setup):
    same = size_check(setup, {"size": "0"})
    assert (same.verdict, same.change.value, same.method, same.counts) == ("pass", 0.0, "exact", True)
    smaller = dataclasses.replace(setup, baseline=None, stored=stored(size_bytes=setup.candidate.model.size // 2))
    assert size_check(smaller, {"size": "+10%"}).verdict == "fail"
    assert size_check(smaller, {"size": "+1MB"}).verdict == "pass"
    assert size_check(smaller, {}).counts is False


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"speed": ()}, "the baseline was stored without them"),
        (
            {"speed": (Speed(batch=1, figures={}, growth={}),), "disturbed": "others took 0.9 of 2 cores"},
            "the baseline was measured beside other work: others took 0.9 of 2 cores",
        ),
        ({"machine": stored_baseline().machine}, "the baseline was measured on AMD EPYC 7763 with 2 cores"),
    ],
)
def test_times_of_elsewhere_are_not_compared_and_what_had_a_limit_stays_open(setup, changes, why):
    baseline = stored(**{"machine": detect(), **changes})
    unlike = dataclasses.replace(setup, baseline=None, stored=baseline)
    result = compare_performance(unlike, {"p99": "+5%", "size": "0", "accuracy": "1pp"}, detect(), Silent())
    assert [(check.name, check.verdict) for check in result.checks] == [("p99", "inconclusive")]
    assert why in result.warnings[0]
    assert why in result.checks[0].note
    assert compare_performance(unlike, {}, detect(), Silent()).checks == []


def test_a_limit_that_is_no_amount_is_told_before_anything_runs(setup):
    with pytest.raises(UserError, match="the limit p99"):
        compare_performance(setup, {"p99": "fast"}, detect(), Silent())


@pytest.mark.slow
def test_a_model_that_is_much_slower_fails_and_its_layers_are_shown(setup, tmp_path):
    slow = graphs.model(tmp_path / "slow", SLOW, graphs.weights(w0=(16, 1024), w1=(1024, 1024), w2=(1024, 4)))
    progress = Notes()
    slower = dataclasses.replace(setup, candidate=runnable(slow, "slow"))
    result = compare_performance(slower, {"p50": "+50%", "memory": "+10000%"}, detect(), progress)
    checks = {check.name: check for check in result.checks}
    assert checks["p50 at batch 1"].verdict == "fail"
    assert checks["p50 at batch 1"].change.low > 0.5
    assert checks["memory"].counts
    assert not checks["p99 at batch 1"].counts
    assert {pair.kind for pair in result.layers} >= {"MatMul"} or result.layers
    assert progress.stages == ["measuring side by side"]


@pytest.mark.slow
@pytest.mark.other_work
def test_beside_other_work_nothing_is_decided(setup, tmp_path):
    slow = graphs.model(tmp_path / "slow", SLOW, graphs.weights(w0=(16, 1024), w1=(1024, 1024), w2=(1024, 4)))
    slower = dataclasses.replace(setup, candidate=runnable(slow, "slow"))
    with cpu_load(loops=4):
        result = compare_performance(slower, {"p50": "+50%"}, detect(), Silent())
    check = next(check for check in result.checks if check.name == "p50 at batch 1")
    assert result.disturbed
    assert check.verdict == "inconclusive"
    assert "disturbed by other work" in check.note
    assert setup.monitor.disturbed_by()


@pytest.mark.slow
def test_a_limit_in_the_middle_of_the_noise_is_an_open_question_and_accuses_nobody(setup):
    same = dataclasses.replace(setup, confidence=0.9999)
    result = compare_performance(same, {"p50": "+0.1%"}, detect(), Silent())
    assert next(check for check in result.checks if check.name == "p50 at batch 1").verdict != "fail"


@pytest.mark.slow
def test_beside_a_stored_baseline_both_are_compared_with_the_reference_workload(setup):
    growth = Estimate(value=-0.9, low=-0.91, high=-0.89, count=9)
    names = ("p50", "p90", "p99", "throughput")
    speed = Speed(batch=1, figures=dict.fromkeys(names, 1.0), growth=dict.fromkeys(names, growth))
    baseline = stored(machine=detect(), speed=(speed,), memory_bytes=10**8, load_ms=10.0, first_ms=1.0)
    result = compare_performance(
        dataclasses.replace(setup, baseline=None, stored=baseline), {"p50": "+1000000%"}, detect(), Silent()
    )
    check = next(check for check in result.checks if check.name == "p50 at batch 1")
    assert check.method == "both beside the same reference workload"
    assert check.baseline == 1.0
