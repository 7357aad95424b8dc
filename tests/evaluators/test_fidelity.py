import numpy as np
import pytest

from mopt.evaluators.fidelity import Fidelity, cosine, looks_like_scores


def test_a_copy_agrees_in_everything() -> None:
    fidelity, outputs = Fidelity(), {"logits": np.float32([[1, 2, 3]]), "label": np.int64([2])}
    fidelity.add(outputs, outputs)
    assert fidelity.summary() == {
        "logits.cosine": pytest.approx(1.0),
        "logits.snr_db": 200.0,
        "logits.max_abs_diff": 0.0,
        "logits.relative_diff": 0.0,
        "logits.margin": 1e9,
        "logits.top1": 1.0,
        "logits.kl": 0.0,
        "label.equal": 1.0,
    }


def test_sums_over_samples_equal_the_formula_over_all() -> None:
    random = np.random.default_rng(0)
    truth = random.standard_normal((50, 1, 8)).astype(np.float32)
    answer = truth + 0.1 * random.standard_normal((50, 1, 8)).astype(np.float32)
    fidelity = Fidelity()
    for one, other in zip(answer, truth, strict=True):
        fidelity.add({"y": one}, {"y": other})
    found = fidelity.summary()
    noise = answer.astype(np.float64) - truth
    assert found["y.snr_db"] == pytest.approx(10 * np.log10((truth.astype(np.float64) ** 2).sum() / (noise**2).sum()))
    assert found["y.max_abs_diff"] == pytest.approx(np.abs(noise).max())
    assert found["y.top1"] == (answer.argmax(-1) == truth.argmax(-1)).mean()


def test_another_shape_does_not_agree() -> None:
    fidelity = Fidelity()
    fidelity.add({"boxes": np.ones((1, 3, 4), np.float32)}, {"boxes": np.ones((1, 2, 4), np.float32)})
    assert fidelity.summary() == {
        "boxes.cosine": 0.0,
        "boxes.snr_db": 0.0,
        "boxes.max_abs_diff": 1.0,
        "boxes.relative_diff": 1.0,
    }


def test_cosine_of_nothing() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert (cosine(zero, zero), cosine(zero, one), cosine(one, -one)) == (1.0, 0.0, pytest.approx(-1.0))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([[0.1, 0.9]], True),
        ([[5.0, -3.0, 2.0]], True),
        ([[0.6, 0.8]], False),
        ([[1.0, 0.0]], True),
        ([[1.0]], False),
        ([0.1, 0.9], False),
    ],
    ids=["probabilities", "logits", "embedding", "certain", "single", "no-batch"],
)
def test_what_looks_like_scores(value: list[object], expected: bool) -> None:
    assert looks_like_scores(np.float32(value)) is expected


def test_outputs_without_rows_are_equal_and_other_than_those_with_rows():
    fidelity = Fidelity()
    fidelity.add({"classes": np.zeros(0, np.int64)}, {"classes": np.zeros(0, np.int64)})
    fidelity.add({"classes": np.zeros(0, np.int64)}, {"classes": np.zeros(1, np.int64)})
    assert fidelity.summary() == {"classes.equal": 0.5}
    scores = Fidelity()
    scores.add({"y": np.zeros((1, 0), np.float32)}, {"y": np.float32([[0.2, 0.8]])})
    assert scores.summary()["y.top1"] == 0
