from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators.inference import evaluate, record_outputs, record_reference_outputs, run_all, score
from mopt.evaluators.metrics.accuracy import Accuracy
from mopt.evaluators.metrics.fidelity import FidelityMetric
from mopt.model.files import Model
from mopt.model.onnx_signature import read_signature
from mopt.model.samples import Sample, Samples, write_samples
from mopt.model.signature import Feed, Signature
from mopt.profiles.machine import detect
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.system.store import Store
from tests.passes import graphs

DOUBLE = '<ir_version: 8, opset_import: ["" : 17]> g (float[batch, 3] x) => (float[batch, 3] y) { y = Add (x, x) }'
RUNTIME = OnnxRuntime.reference(1)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return graphs.model(tmp_path / "model", DOUBLE)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    (tmp_path / "samples").mkdir()
    feeds = (Sample({"x": np.eye(3, dtype=np.float32)[[index % 3]]}, index % 3, str(index)) for index in range(11))
    return write_samples(tmp_path / "samples", feeds)


def signature(model: Model, **changes: object) -> Signature:
    return read_signature(model.file).model_copy(update={"batch_axes": {"x": 0, "y": 0}, **changes})


class Counting(SessionProcess):
    """Notes the size of each batch."""

    def __init__(self, model: Model) -> None:
        super().__init__(RUNTIME, model)
        self.batches: list[int] = []

    def run_finite(self, feed: Feed) -> Feed:
        self.batches.append(len(feed["x"]))
        return super().run_finite(feed)


@pytest.fixture
def session(model: Model) -> Iterator[Counting]:
    with Counting(model) as opened:
        yield opened


@pytest.mark.parametrize(
    ("changes", "batches"),
    [
        ({"batch_size": None}, [8, 3]),
        ({"batch_size": 4}, [4, 4, 4]),
        ({"batch_size": None, "batch_axes": {}}, [1] * 11),
    ],
    ids=["free", "fixed", "none"],
)
def test_each_sample_gets_its_own_answer_however_they_are_batched(
    model: Model, samples: Samples, session: Counting, changes: dict[str, object], batches: list[int]
) -> None:
    answers = list(run_all(session, signature(model, **changes), samples))
    assert session.batches == batches
    assert len(answers) == len(samples)
    for answer, feed in zip(answers, samples, strict=True):
        np.testing.assert_array_equal(answer["y"], 2 * feed["x"])


def test_answers_are_recorded_once_and_again_for_another_run(model: Model, samples: Samples, store: Store) -> None:
    first = record_outputs(model, RUNTIME, signature(model), samples, store)
    assert record_outputs(model, RUNTIME, signature(model), samples, store).folder == first.folder
    again = record_outputs(model, RUNTIME, signature(model), samples, store, run=1)
    assert again.folder != first.folder
    assert again.digest == first.digest
    assert score(first, Accuracy(), samples).ravel().tolist() == [1.0] * 11


@pytest.mark.slow
def test_a_candidate_is_scored_against_labels_and_against_the_reference(
    model: Model, samples: Samples, store: Store, tmp_path: Path
) -> None:
    expected = record_outputs(model, RUNTIME, signature(model), samples, store)
    worse = graphs.model(tmp_path / "worse", DOUBLE.replace("Add (x, x)", "Sub (x, x)"))
    for metric in (Accuracy(), FidelityMetric(classes="yes")):
        same, other = (
            evaluate(candidate, RUNTIME, signature(model), samples, expected, metric, detect(), store)
            for candidate in (model, worse)
        )
        assert metric.value(same.rows) == 1
        assert metric.value(other.rows) < 0.5
        assert same.fidelity["y.cosine"] == pytest.approx(1)
        assert other.fidelity["y.cosine"] < same.fidelity["y.cosine"]
    assert store.sizes()["evaluations"][0] == 4


@pytest.mark.parametrize("synthetic", [False, True])
def test_a_reference_that_answers_no_number_is_told_in_a_line(tmp_path: Path, store: Store, synthetic: bool) -> None:
    log = graphs.model(tmp_path / "log", DOUBLE.replace("Add (x, x)", "Log (x)"))
    (tmp_path / "s").mkdir()
    negative = write_samples(tmp_path / "s", [Sample({"x": np.float32([[1, -1, 2]])})], synthetic=synthetic)
    with pytest.raises(
        UserError, match="the model itself, before any change, fails on the samples: output y has NaN"
    ) as caught:
        record_reference_outputs(log, RUNTIME, signature(log), negative, store)
    assert ("give real samples" in str(caught.value.hint)) == synthetic
