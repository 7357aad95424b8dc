import numpy as np
import pytest

from mopt.regression.models import collect_outputs, default_batch_sizes, is_deterministic
from tests import manifests
from tests.regression.cases import labelled, noisy, product, runnable


@pytest.fixture
def samples(tmp_path):
    return labelled(tmp_path / "samples", 12)


def test_a_model_says_what_it_is_for_the_verdict(tmp_path):
    model = product(tmp_path)
    record = runnable(model).record
    assert (record.name, record.source, record.runtime) == ("new", "new.onnx", "onnxruntime")
    assert (record.digest, record.size_bytes, record.machine) == (model.digest, model.size, None)


@pytest.mark.parametrize(
    ("changes", "manifest", "sizes"),
    [
        ({}, None, (1, 8)),
        ({}, manifests.manifest(), (1, 8)),
        ({"batch_size": 4}, None, (4,)),
        ({"batch_axes": {}}, None, (1,)),
    ],
)
def test_costs_are_compared_at_one_and_at_the_largest_batch_that_is_served(tmp_path, changes, manifest, sizes):
    model = runnable(product(tmp_path))
    described = model.signature.model_copy(update=changes)
    assert default_batch_sizes(runnable(model.model, signature=described, manifest=manifest)) == sizes


def test_inputs_of_each_batch_size_are_real_samples(tmp_path, samples):
    subject = runnable(product(tmp_path / "m")).benchmark_subject(samples, (1, 4))
    assert {batch: feeds[0]["x"].shape for batch, feeds in subject.feeds.items()} == {1: (1, 16), 4: (4, 16)}


@pytest.mark.slow
def test_what_answers_the_same_twice_is_deterministic_and_what_draws_is_not(tmp_path, samples, store):
    for make, expected in ((product, True), (noisy, False)):
        model = runnable(make(tmp_path / make.__name__))
        first = collect_outputs(model, samples, store, 1).runs[0]
        assert is_deterministic(model, samples, first) == expected


def test_each_run_is_kept_apart_and_answers_every_sample(tmp_path, samples, store):
    runs = collect_outputs(runnable(noisy(tmp_path / "m")), samples, store, 2).runs
    assert [len(run) for run in runs] == [12, 12]
    assert any(not np.array_equal(one["scores"], two["scores"]) for one, two in zip(*runs, strict=True))
