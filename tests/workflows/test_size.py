import dataclasses
import datetime

import pytest

from mopt.capacity.batching import Demand
from mopt.capacity.recommendation import SizingRequest
from mopt.errors import UserError
from mopt.profiles.machine import detect
from mopt.records.measurement import BatchProfile, Estimate, OperatorCost, OperatorProfile
from mopt.records.serving import InstanceGroup, ServingProfile
from mopt.reports.sizing import render_sizing, rows, sentences
from mopt.workflows.size import ProfiledModel, read_profiled_models, size

SIZES = (1, 2, 4, 8)


def linear(batch):
    return 6 + 0.8 * batch


def profile(scale=1.0, machine=None, operators=True):
    def entry(batch):
        value = scale * linear(batch)
        estimate = Estimate(value=value, low=value, high=value, count=100)
        return BatchProfile(
            batch=batch, p50=estimate, p90=estimate, p99=estimate, mean=value, samples=(value,), throughput=batch * 1e3 / value
        )

    entries = tuple(entry(batch) for batch in SIZES)
    costs = [
        OperatorProfile(
            batch=batch, threads=1, total_ms=scale * linear(batch),
            operators=(
                OperatorCost(
                    kind="MatMul", arithmetic="fp32", nodes=4, flops=1e8 * batch, bytes=4e6, ms=0.95 * scale * linear(batch)
                ),
            ),
        )
        for batch in (1, 8)
    ]  # fmt: skip
    return ServingProfile(
        machine=machine or detect(), noise={"load_1m": 0.1}, batches=True,
        instance_groups=(InstanceGroup(instances=1, threads=1, solo=entries, concurrent=entries),),
        load_ms=1500, first_ms=300, warm_ms=200, memory=dict.fromkeys(SIZES, 10**9),
        operators=tuple(costs) if operators else (),
    )  # fmt: skip


DEMAND = Demand(1000, 100, spare_replicas=1)


@pytest.fixture(scope="module")
def sizing():
    subjects = [ProfiledModel("example", "fp32", profile()), ProfiledModel("example", "int8", profile(0.5))]
    return size(subjects, SizingRequest(DEMAND, price_usd=0.2, targets=("aws-c*", "gcp-c3*")))


@pytest.mark.slow
def test_this_machine_is_measured_and_others_are_estimates_with_a_range(sizing):
    here = [option for option in sizing.options if option.target == "here"]
    assert [option.precision for option in here] == ["fp32", "int8"]
    assert all(option.origin == "measured" and option.replicas.low == option.replicas.high for option in here)
    others = [option for option in sizing.options if option.target != "here"]
    assert len(others) >= 12
    assert all(option.origin == "projected" for option in others)
    assert all(option.replicas.low <= option.replicas.value <= option.replicas.high for option in others)
    assert any(option.replicas.low < option.replicas.high for option in others)


def test_the_worked_example_with_a_spare_and_its_price(sizing):
    option = sizing.options[0]
    assert option.replicas.value == 3  # two that hold it, and one that may be lost
    assert option.monthly_usd.value == pytest.approx(3 * 0.2 * 730)
    assert option.per_million_usd.value == pytest.approx(3 * 0.2 / 3.6)
    assert option.utilization <= 0.8
    assert option.p99_ms.value <= 100


def test_the_cheapest_at_its_unfavourable_end_is_recommended(sizing):
    best = sizing.options[sizing.recommended]
    assert best.monthly_usd.high == min(option.monthly_usd.high for option in sizing.options if not option.excluded)
    assert best.target in sentences(sizing)[0]
    assert rows(sizing)[0]["target"] == best.target


@pytest.mark.slow
def test_a_gpu_that_costs_more_than_the_cpus_cannot_pay(sizing):
    assert sizing.gpu.answer == "CPU"
    dear = size(
        [ProfiledModel("example", "fp32", profile())],
        SizingRequest(dataclasses.replace(DEMAND, rate=50_000), price_usd=0.2, targets=("here",)),
    )
    assert dear.gpu.answer == "perhaps a GPU"
    assert 0 < dear.gpu.pays_from < 50_000


def test_every_figure_of_a_target_names_its_source(sizing):
    targets = {option.target for option in sizing.options} - {"here"}
    assert targets <= sizing.sources.keys()
    assert all("https://" in text for figures in sizing.sources.values() for text in figures.values())


@pytest.mark.slow
def test_limits_exclude_with_a_reason():
    subject = ProfiledModel("example", "fp32", profile())
    poor = size([subject], SizingRequest(DEMAND, price_usd=0.2, targets=("here",), budget_usd=100))
    assert poor.recommended is None
    assert "over the budget of 100 USD" in poor.options[0].excluded
    fast = size([subject], SizingRequest(Demand(1000, 5), targets=("here",)))
    assert "no setting keeps a p99 of 5 ms" in fast.options[0].excluded
    big = ProfiledModel("example", "fp32", profile().model_copy(update={"memory": dict.fromkeys(SIZES, 10**13)}))
    assert "GB" in size([big], SizingRequest(DEMAND, targets=("here",))).options[0].excluded


@pytest.mark.slow
def test_a_profile_without_operators_is_not_projected():
    found = size(
        [ProfiledModel("example", "fp32", profile(operators=False))],
        SizingRequest(DEMAND, price_usd=0.2, targets=("aws-c7i*",)),
    )
    assert "no operators were profiled" in next(option for option in found.options if option.target != "here").excluded


@pytest.mark.slow
def test_machines_without_an_answer_share_one_line():
    subjects = [ProfiledModel("example", "int8", profile(0.5)), ProfiledModel("example", "fp32", profile(operators=False))]
    sizing = size(subjects, SizingRequest(DEMAND, price_usd=0.2, targets=("aws-c7*",)))
    table = rows(sizing)
    others = [option for option in sizing.options if option.target != "here" and option.precision == "fp32"]
    assert len(others) > 1
    (shared,) = [row for row in table if "no operators were profiled" in row["note"]]
    assert (shared["target"], shared["precision"]) == (f"{len(others)} machines", "fp32")
    assert len(table) == len(sizing.options) - len(others) + 1
    assert len([line for line in sentences(sizing) if line.startswith("No answer for fp32 on ")]) == 1


def test_a_machine_with_fewer_cores_than_any_instance_has_threads_is_projected_too():
    wide = profile(machine=detect().model_copy(update={"cores": 16}))
    group = wide.instance_groups[0].model_copy(update={"threads": 16})
    operators = tuple(entry.model_copy(update={"threads": 16}) for entry in wide.operators)
    wide = wide.model_copy(update={"instance_groups": (group,), "operators": operators})
    request = SizingRequest(Demand(100, 1000), machine="aws-c7i-2xlarge", targets=("aws-c7i-2xlarge",))
    here, there = size([ProfiledModel("example", "fp32", wide)], request).options
    assert there.threads == 4  # of four cores
    assert there.instances == 1
    assert there.peak_qps == pytest.approx(here.peak_qps, rel=0.01)  # that machine itself
    assert there.replicas.low <= there.replicas.value <= there.replicas.high


@pytest.mark.slow
def test_the_daily_curve_costs_less_when_machines_follow_it():
    daily = tuple([100.0] * 12 + [1000.0] * 12)
    found = size(
        [ProfiledModel("example", "fp32", profile())], SizingRequest(DEMAND, daily=daily, price_usd=0.2, targets=("here",))
    )
    option = found.options[0]
    assert found.mean_rate == 550
    assert option.autoscaled_usd < option.monthly_usd.value
    assert found.autoscaling.minimum == 2  # one for 100 requests per second, and one that may be lost
    assert found.autoscaling.start_seconds == pytest.approx(2.0)
    assert found.autoscaling.threshold == pytest.approx(option.peak_qps, abs=0.1)


def test_profiles_of_two_machines_and_unknown_targets_are_mistakes():
    other = detect().model_copy(update={"cpu": "another"})
    with pytest.raises(UserError, match="two machines"):
        size([ProfiledModel("a", "fp32", profile()), ProfiledModel("b", "fp32", profile(machine=other))], SizingRequest(DEMAND))
    with pytest.raises(UserError, match="aws-c7x"):
        size([ProfiledModel("a", "fp32", profile())], SizingRequest(DEMAND, targets=("aws-c7x",)))
    with pytest.raises(UserError, match="kind of CPU"):
        size([ProfiledModel("a", "fp32", profile())], SizingRequest(DEMAND, machine="x86-amx"))


def test_profiles_of_another_machine_are_projected_only_from_one_that_is_named():
    other = profile(machine=detect().model_copy(update={"cpu": "another"}))
    without = size([ProfiledModel("a", "fp32", other)], SizingRequest(DEMAND, targets=("aws-c7i*",)))
    assert [option.target for option in without.options] == ["here"]
    assert any("--this-machine" in warning for warning in without.warnings)
    named = size([ProfiledModel("a", "fp32", other)], SizingRequest(DEMAND, targets=("aws-c6i*",), machine="aws-c6a-2xlarge"))
    assert [option.target for option in named.options] == ["here", "aws-c6i-2xlarge"]
    assert named.options[0].hourly_usd > 0


def test_the_same_machine_projected_is_what_was_measured():
    """Projected from a named machine onto itself, the times are those that were measured."""
    other = profile(machine=detect().model_copy(update={"cpu": "another"}))
    request = SizingRequest(Demand(20_000, 100), targets=("aws-c6i*",), machine="aws-c6i-2xlarge")
    here, there = size([ProfiledModel("a", "fp32", other)], request).options
    assert there.peak_qps == pytest.approx(4 * here.peak_qps, rel=0.1)  # one core here, four there


@pytest.mark.parametrize("text", ["", "{}", '{"name": 1}', "not json"])
def test_nonsense_is_no_profile(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match="not a profile"):
        read_profiled_models(tmp_path / "p.json")
    with pytest.raises(UserError, match="no artifact and no profile"):
        read_profiled_models(tmp_path / "nothing")


def test_the_page_loads_nothing_and_shows_both_charts(sizing):
    page = render_sizing(sizing)
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert datetime.date.today().isoformat()[:4] in page
    hostile = sizing.model_copy(update={"name": "<script>alert(1)</script>"})
    assert "<script>" not in render_sizing(hostile)
