import dataclasses

import pytest

from mopt.artifacts.manifest import BatchProfile, Estimate, Profile, Trial
from mopt.entry import Entry
from mopt.finals import among_equals
from mopt.plan import Candidate
from mopt.runtimes.onnxruntime import OnnxRuntime


@dataclasses.dataclass(frozen=True)
class Stub:
    objective: str = "latency"
    latency_limit_ms: float | None = None


def entry(name: str, *speeds: tuple[float, float, float]) -> Entry:
    """One that was measured at batches 1, 2, ...: value, low and high of its speed-up at each."""

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
    return Entry(Trial(name=name, runtime="onnxruntime", runtime_fields={}, profile=profile), Candidate(name, (), runtime))


BASE = entry("reference", (1, 1, 1), (1, 1, 1))
LEADER = entry("leader", (1.84, 1.75, 1.95), (1.9, 1.8, 2.0))


@pytest.mark.parametrize(
    ("rival", "winner"),
    [
        (entry("better at large batches", (1.80, 1.72, 1.90), (2.1, 2.0, 2.2)), "better at large batches"),
        (entry("worse at large batches", (1.80, 1.72, 1.90), (1.5, 1.4, 1.6)), "leader"),
        (entry("surely slower at batch 1", (1.70, 1.69, 1.72), (2.5, 2.4, 2.6)), "leader"),
        (entry("slower, but uncertain", (1.70, 1.50, 1.90), (2.5, 2.4, 2.6)), "leader"),
    ],
)
def test_what_batch_1_cannot_tell_apart_is_decided_over_all_batches(rival, winner):
    found, equals = among_equals(Stub(), [LEADER, rival], BASE)
    assert found.trial.name == winner
    assert ("leader" in equals) == (winner != "leader")


def test_size_knows_no_equals():
    rival = entry("faster", (1.84, 1.75, 1.95), (9, 9, 9))
    assert among_equals(Stub(objective="size"), [LEADER, rival], BASE) == (LEADER, [])


def test_without_rivals_the_reference_wins():
    assert among_equals(Stub(), [], BASE) == (BASE, [])
