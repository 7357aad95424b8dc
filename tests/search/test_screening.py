import dataclasses

import pytest

from mopt.errors import Rejection
from mopt.search.quality import reference_trial
from mopt.search.screening import screen_latency, screening_batch
from mopt.search.trial import REFERENCE
from tests.passes import graphs
from tests.search.cases import Notes, candidate, labelled, product, signature, speed_task, trial


@pytest.mark.parametrize(
    ("objective", "most", "changes", "batch"),
    [
        ("latency", 32, {}, 1),
        ("throughput", 32, {}, 8),
        ("throughput", 4, {}, 4),
        ("throughput", 32, {"batch_size": 3}, 3),
        ("latency", 32, {"batch_axes": {}}, 1),
    ],
)
def test_the_batch_size_follows_the_objective(tmp_path, objective, most, changes, batch):
    model = product(tmp_path)
    task = speed_task(model, labelled(tmp_path / "samples", 4), objective=objective, max_batch=most)
    assert screening_batch(dataclasses.replace(task, signature=signature(model).model_copy(update=changes))) == batch


SLOW = """
<ir_version: 8, opset_import: ["" : 17]>
slow (float[batch, 16] x) => (float[batch, 4] scores) {
    a = MatMul (x, w0) b = MatMul (a, w1) c = MatMul (b, w1) d = MatMul (c, w1) e = MatMul (d, w1) scores = MatMul (e, w2)
}
"""


@pytest.mark.slow
def test_every_candidate_is_loaded_once_and_what_is_slower_or_broken_is_out(tmp_path):
    model = product(tmp_path / "reference")
    slow = graphs.model(tmp_path / "slow", SLOW, graphs.weights(w0=(16, 1024), w1=(1024, 1024), w2=(1024, 4)))
    broken = product(tmp_path / "broken")
    broken.file.write_bytes(b"no model")
    trials = [
        trial("slow", slow),
        trial("broken", broken),
        trial("nan", product(tmp_path / "nan", float("nan"))),
        trial("large", product(tmp_path / "large")).update(size_bytes=10**13),
        trial("out", model).reject(Rejection.UNCHANGED, "the same"),
    ]
    progress = Notes()
    task = speed_task(model, labelled(tmp_path / "samples", 4))
    screened = {
        each.record.name: each for each in screen_latency(task, reference_trial(model, candidate(REFERENCE)), trials, progress)
    }
    assert list(screened) == ["slow", "broken", "nan", "large", "out"]
    assert {name: each.record.outcome.rejection for name, each in screened.items()} == {
        "slow": Rejection.SLOWER, "broken": Rejection.FAILED, "nan": Rejection.NOT_FINITE, "large": Rejection.MEMORY,
        "out": Rejection.UNCHANGED,
    }  # fmt: skip
    profile = screened["slow"].record.profile
    assert (profile.depth, [each.batch for each in profile.batches]) == ("screening", [1])
    assert profile.batches[0].ratio.high < 1
    assert screened["slow"].record.evidence
    assert "the speed of the reference at batch 1" in screened["slow"].record.outcome.reason
    assert screened["broken"].record.profile is None
    unserved = dataclasses.replace(task, ships_reference=False)
    (kept,) = screen_latency(unserved, reference_trial(model, candidate(REFERENCE)), trials[:1], Notes())
    assert kept.alive
    assert kept.screened.high < 1
    assert len(progress.notes) == 3
