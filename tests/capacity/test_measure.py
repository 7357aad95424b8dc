import itertools

import numpy as np
import pytest

from mopt.capacity.measure import MeasuredModel, SpeedTrace, instance_groups, measure_capacity, padding_share
from mopt.model.files import Model
from mopt.model.signature import Signature, TensorSpec
from mopt.profiles.machine import detect
from mopt.progress import Silent
from mopt.runtimes.onnxruntime import OnnxRuntime
from tests.small import digits

SIGNATURE = Signature(
    inputs=(TensorSpec(name="pixels", dtype="float32", shape=("batch", 64)),),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=("batch", 10)),),
    batch_axes={"pixels": 0, "scores": 0},
)


@pytest.mark.parametrize(
    ("cores", "found"),
    [
        (1, [(1, 1)]),
        (2, [(1, 2), (2, 1)]),
        (4, [(1, 4), (2, 2), (4, 1)]),
        (6, [(1, 6), (1, 4), (3, 2), (6, 1)]),
        (16, [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1)]),
    ],
)
def test_cores_are_divided_by_powers_of_two(cores, found):
    assert instance_groups(cores) == found


def test_padding_counts_what_stacking_different_shapes_adds():
    def feed(length):
        return {"ids": np.zeros((1, length), np.int64)}

    assert padding_share([feed(8)] * 5, 4) is None
    assert padding_share([feed(4), feed(12)], 1) is None
    # Pairs of 4 and 12: a quarter each of (4, 4) and (12, 12), half (4, 12) with 8 of 24 padded; 8/2 of 16 on average.
    assert padding_share([feed(4), feed(12)], 2) == pytest.approx(4 / 20, abs=0.04)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    small = digits(folder)
    (folder / "model").mkdir()
    (folder / "model" / "model.onnx").write_bytes(small.model.read_bytes())
    rng = np.random.default_rng(0)
    samples = [{"pixels": rng.random((1, 64), np.float32)} for _ in range(20)]
    return measure_capacity(
        MeasuredModel(OnnxRuntime(threads=2), Model.at("onnx", folder / "model"), SIGNATURE, samples),
        machine=detect(), max_batch=8, cores=2, seconds=0.2, progress=Silent(),
    )  # fmt: skip


@pytest.mark.slow
def test_every_instance_group_is_measured_at_every_batch_size(profile):
    assert [(one.instances, one.threads) for one in profile.instance_groups] == [(1, 2), (2, 1)]
    for group in profile.instance_groups:
        assert [entry.batch for entry in group.solo] == [entry.batch for entry in group.concurrent] == [1, 2, 4, 8]
        assert all(entry.p50.value <= entry.p99.value and entry.p50.count >= 6 for entry in group.concurrent)
    assert profile.instance_groups[0].solo == profile.instance_groups[0].concurrent


def test_the_pace_is_what_all_turns_have_in_common():
    pace, slow = SpeedTrace(), [1.0] * 6 + [1.5] * 3
    for factor in slow * 10:
        pace.add((1, 0, 1), [factor * 10.0] * 10, 1)
        pace.add((4, 0, 1), [factor * 25.0] * 8, 1)
    found = np.array(pace.factors())
    assert found.max() / found.min() == pytest.approx(1.5, rel=0.001)
    assert np.mean(1 / found) == pytest.approx(1, abs=0.001)
    # A turn of 200 ms fills two slots.
    assert len(found) == 10 * (6 * (1 + 2) + 3 * (2 + 3))


def test_a_steady_machine_has_no_pace():
    pace = SpeedTrace()
    for index in range(50):
        pace.add((1, 0, 1), [10.0 + 0.01 * (index % 2)] * 10, 1)
    assert pace.factors() == ()


@pytest.mark.slow
def test_all_layouts_share_the_pace(profile):
    assert len({(group.slowdown, group.slowdown_slot_ms) for group in profile.instance_groups}) == 1
    (pace,) = {group.slowdown for group in profile.instance_groups}
    assert np.mean(1 / np.array(pace)) == pytest.approx(1, abs=0.001)


@pytest.mark.slow
def test_start_memory_and_noise_are_stated(profile):
    assert profile.load_ms > 0
    assert profile.first_ms > 0
    assert sorted(profile.memory) == [1, 2, 4, 8]
    assert all(later > 0.99 * earlier for earlier, later in itertools.pairwise(profile.memory.values()))
    assert "load_1m" in profile.noise


@pytest.mark.slow
def test_operators_are_profiled_at_both_ends(profile):
    assert [one.batch for one in profile.operators] == [1, 8]
    small, large = profile.operators
    assert sum(one.flops for one in large.operators) == pytest.approx(8 * sum(one.flops for one in small.operators), rel=0.01)
    assert sum(one.flops for one in small.operators) == pytest.approx(2 * (64 * 256 + 256 * 128 + 128 * 10), rel=0.1)
