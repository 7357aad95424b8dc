import numpy as np
import pytest

from mopt.errors import Rejection
from mopt.model.files import Model
from mopt.model.samples import Sample, batch_feeds, write_samples
from mopt.model.signature import Signature, TensorSpec
from mopt.records.measurement import Estimate, Machine
from mopt.records.trial import TrialRecord
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.memory import memory_budget, memory_groups, reject_oversized
from mopt.search.trial import Candidate, Trial, speedup_text

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "width")), TensorSpec(name="rate", dtype="int64", shape=())),
    outputs=(),
    batch_axes={"x": 0},
)


def samples(folder, widths):
    feeds = (
        {"x": np.full((1, width), index, np.float32), "rate": np.array(16, np.int64)} for index, width in enumerate(widths)
    )
    return write_samples(folder, (Sample(feed) for feed in feeds))


def test_batches_are_made_of_samples_of_the_most_common_shape(tmp_path):
    feeds = batch_feeds(SIGNATURE, samples(tmp_path, [3, 5, 5, 4, 5]), 2)
    assert len(feeds) == 4
    assert all(feed["x"].shape == (2, 5) for feed in feeds)
    assert {int(value) for feed in feeds for value in feed["x"][:, 0]} == {1, 2, 4}
    assert all(feed["rate"].shape == () for feed in feeds)


def test_a_model_that_does_not_batch_gets_single_samples(tmp_path):
    solo = SIGNATURE.model_copy(update={"batch_axes": {}})
    feeds = batch_feeds(solo, samples(tmp_path, [3, 5]), 1)
    assert [feed["x"].shape for feed in feeds] == [(1, 3), (1, 5)]


def entry(name: str, size: int) -> Trial:
    runtime = OnnxRuntime(threads=1)
    trial = TrialRecord(name=name, runtime="onnxruntime", runtime_fields={}, size_bytes=size)
    return Trial(trial, Candidate(name, (), runtime))


@pytest.mark.parametrize(
    ("memory", "size", "groups"),
    [(64e9, 1e8, [["a", "b", "c"]]), (2e9, 5e8, [["a"], ["b"], ["c"]]), (64e9, 3e9, [["a"], ["b"], ["c"]])],
)
def test_sessions_are_opened_together_only_as_far_as_memory_allows(tmp_path, memory, size, groups):
    with (tmp_path / "model.onnx").open("wb") as stream:
        stream.truncate(int(size))
    machine = Machine(cpu="", isa=(), cores=2, memory_bytes=int(memory), system="", python="")
    memory = memory_budget(None, machine, Model("onnx", tmp_path, ""))
    entries = [entry(name, int(size)) for name in "abc"]
    found = memory_groups(memory, entry("reference", int(size)), entries)
    assert [[one.record.name for one in group] for group in found] == groups


def test_what_does_not_fit_beside_the_reference_is_rejected_and_says_so():
    fits, too_large = entry("a", int(0.6e9)), entry("b", int(2.4e9))
    found = reject_oversized(int(4.8e9), entry("reference", int(2.4e9)), [fits, too_large])
    assert found[0] == fits
    assert found[1].record.outcome.rejection is Rejection.MEMORY
    assert found[1].record.outcome.reason == "would take 5.6 GB of memory beside the reference, and 4.8 GB are allowed"


def test_a_reason_is_one_line():
    outcome = entry("a", 1).reject(Rejection.FAILED, "first\n  second").record.outcome
    assert outcome.reason == "first second"


def test_a_speed_up_shows_its_interval():
    assert speedup_text(Estimate(value=1.5, low=1.25, high=2.0, count=9)) == "1.50 (1.25 to 2.00) times"
