import dataclasses

import pytest

from mopt.errors import Rejection
from mopt.records.measurement import BatchProfile, Estimate, Profile
from mopt.records.quality import Quality
from mopt.records.trial import Outcome, TrialRecord
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.selection import break_ties, nothing_to_serve, rank_by_estimate, rank_improvements
from mopt.search.trial import Candidate, Trial


@dataclasses.dataclass(frozen=True)
class Stub:
    objective: str = "latency"
    latency_limit_ms: float | None = None
    ships_reference: bool = True


def entry(name: str, *speeds: tuple[float, float, float], snr: float = 20.0, size: int = 900) -> Trial:
    """One that was measured at batches 1, 2, ...: value, low and high of its speed-up at each."""
    quality = Quality(
        metric="accuracy", value=0.9, reference=0.9, difference=0.0, bound=-0.01, allowed=-0.01, confidence=0.95, count=99,
        verdict="pass", fidelity={"scores.snr_db": snr, "scores.cosine": 0.99, "boxes.snr_db": 40.0},
    )  # fmt: skip

    def batch(index: int, value: float, low: float, high: float) -> BatchProfile:
        flat = Estimate(value=1 / value, low=1 / high, high=1 / low, count=9)
        ratio = Estimate(value=value, low=low, high=high, count=9)
        return BatchProfile(
            batch=index, p50=flat, p90=flat, p99=flat, mean=1 / value, samples=(), throughput=index * value, ratio=ratio
        )

    profile = Profile(
        threads=1, load_ms=1, first_ms=1, peak_bytes=1, depth="full", limit="",
        batches=tuple(batch(index, *speed) for index, speed in enumerate(speeds, start=1)),
    )  # fmt: skip
    runtime = OnnxRuntime(threads=1)
    trial = TrialRecord(name=name, runtime="onnxruntime", runtime_fields={}, profile=profile, quality=quality, size_bytes=size)
    quick = Estimate(value=speeds[0][0], low=speeds[0][1], high=speeds[0][2], count=7)
    return Trial(trial, Candidate(name, (), runtime), screened=quick)


CONTROL = Estimate(value=1, low=0.99, high=1.01, count=9)
BASE = entry("reference", (1, 1, 1), (1, 1, 1))
LEADER = entry("leader", (1.84, 1.75, 1.95), (1.9, 1.8, 2.0))


@pytest.mark.parametrize(
    ("rival", "winner"),
    [
        (entry("better at large batches", (1.80, 1.72, 1.90), (2.1, 2.0, 2.2)), "better at large batches"),
        (entry("worse at large batches", (1.80, 1.72, 1.90), (1.5, 1.4, 1.6)), "leader"),
        (entry("surely slower at batch 1", (1.70, 1.69, 1.72), (2.5, 2.4, 2.6)), "leader"),
        (entry("slower, but uncertain", (1.70, 1.50, 1.90), (2.5, 2.4, 2.6)), "leader"),
        (entry("far from the reference", (1.80, 1.72, 1.90), (2.1, 2.0, 2.2), snr=15), "leader"),
        (entry("close to the reference", (1.80, 1.72, 1.90), (1.5, 1.4, 1.6), snr=25), "close to the reference"),
        (entry("a little closer", (1.80, 1.72, 1.90), (1.5, 1.4, 1.6), snr=22), "leader"),
    ],
)
def test_what_batch_1_cannot_tell_apart_is_decided_over_all_batches(rival, winner):
    found, equals = break_ties(Stub(), [LEADER, rival], BASE)
    assert found.record.name == winner
    assert ("leader" in equals) == (winner != "leader")


def test_of_those_that_look_alike_the_most_faithful_come_first():
    found = [
        entry("fastest", (1.60, 1.55, 1.70), snr=10),
        entry("as fast", (1.55, 1.45, 1.62), snr=30),
        entry("surely slower", (1.58, 1.57, 1.59), snr=90),
        entry("slower", (1.30, 1.00, 2.00), snr=90),
    ]
    names = [one.record.name for one in rank_by_estimate(Stub(), found)]
    assert names == ["as fast", "fastest", "surely slower", "slower"]


def test_what_the_reference_reaches_beside_itself_is_no_gain():
    candidates = [entry("by chance", (1.03, 1.01, 1.05)), entry("faster", (1.08, 1.02, 1.1))]
    noisy = Estimate(value=1.02, low=0.99, high=1.04, count=9)
    assert [trial.record.name for trial in rank_improvements(Stub(), candidates, BASE, noisy)] == ["faster"]
    assert len(rank_improvements(Stub(), candidates, BASE, CONTROL)) == 2


def test_where_the_reference_is_not_served_the_best_that_is_right_may_be_slower_and_larger():
    candidates = [entry("slow", (0.5, 0.4, 0.6), size=2000), entry("slower", (0.3, 0.2, 0.4), size=1000)]
    assert rank_improvements(Stub(), candidates, BASE, CONTROL) == []
    for objective, order in (("latency", ["slow", "slower"]), ("size", ["slower", "slow"])):
        stub = Stub(objective=objective, ships_reference=False)
        assert [trial.record.name for trial in rank_improvements(stub, candidates, BASE, CONTROL)] == order


def test_size_knows_no_equals():
    rival = entry("faster", (1.84, 1.75, 1.95), (9, 9, 9))
    assert break_ties(Stub(objective="size"), [LEADER, rival], BASE) == (LEADER, [])


def test_without_rivals_the_reference_wins():
    assert break_ties(Stub(), [], BASE) == (BASE, [])


def test_the_smallest_is_smaller_than_the_reference_and_surely_faster():
    candidates = [
        entry("as large", (1.9, 1.8, 2.0), size=900),
        entry("small", (1.2, 1.1, 1.3), size=500),
        entry("smallest", (1.1, 1.05, 1.2), size=400),
        entry("smaller, perhaps not faster", (1.1, 0.9, 1.2), size=300),
    ]
    ranked = rank_improvements(Stub(objective="size"), candidates, BASE, CONTROL)
    assert [trial.record.name for trial in ranked] == ["smallest", "small"]
    ranked = rank_improvements(Stub(), candidates, BASE, CONTROL)
    assert [trial.record.name for trial in ranked] == ["as large", "small", "smallest"]


def test_where_nothing_can_be_served_the_reasons_are_those_of_what_was_tried():
    refused = Outcome(rejection=Rejection.UNSUPPORTED, reason="it does not serve openvino")
    others = [entry(f"openvino-{index}", (1.0, 1.0, 1.0)).update(outcome=refused) for index in range(4)]
    others = [dataclasses.replace(trial, candidate=dataclasses.replace(trial.candidate, refused=refused)) for trial in others]
    tried = entry("tensorflow-fp32", (1.0, 1.0, 1.0)).reject(Rejection.UNSUPPORTED, "it has a Loop")
    assert "right: tensorflow-fp32: it has a Loop" in nothing_to_serve([*others, tried]).message
    assert "openvino-0: it does not serve openvino" in nothing_to_serve(others).message
