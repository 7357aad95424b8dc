import numpy as np
import pytest

from tests.evaluators.metrics.cases import TABLE, load, scores, value

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_fidelity_of_scores_is_top1_and_of_embeddings_is_cosine() -> None:
    scores, other = np.float32([[0.1, 0.9]]), np.float32([[0.4, 0.6]])
    metric = load("fidelity")
    assert value(metric, [{"p": other}], [None], [{"p": scores}]) == 1.0
    assert value(metric, [{"p": 1 - other}], [None], [{"p": scores}]) == 0.0
    assert value(metric, [{"embedding": 1 - other}], [None], [{"embedding": scores}]) < 0.9
    tokens = TABLE[:4][None]
    assert value(metric, [{"h": tokens * 1.5}], [None], [{"h": tokens}]) == pytest.approx(1.0)


def test_fidelity_counts_the_output_that_agrees_least() -> None:
    reference = {"boxes": TABLE[:4][None], "count": np.int64([[4, 1]])}
    metric = load("fidelity")
    assert value(metric, [reference], [None], [reference]) == 1.0
    assert value(metric, [{**reference, "count": np.int64([[4, 2]])}], [None], [reference]) == 0.5
    assert value(metric, [{**reference, "boxes": -TABLE[:4][None]}], [None], [reference]) == pytest.approx(-1.0)


def test_fidelity_of_a_single_number_is_the_coefficient_of_determination() -> None:
    truth, answer = TABLE[:, 0], TABLE[:, 0] + 0.2 * TABLE[:, 1]
    found = value(load("fidelity"), scores(answer[:, None], "p"), [None] * 300, scores(truth[:, None], "p"))
    assert found == pytest.approx(sklearn_metrics.r2_score(truth, answer), rel=1e-5)


def test_a_number_that_is_always_the_same_is_not_judged_by_its_rounding() -> None:
    truth = np.full((300, 1), -0.5212871, np.float32)
    for answer, expected in ((np.nextafter(truth, np.float32(0)), 1.0), (truth * 1.1, 0.99), (-truth, -3.0), (truth, 1.0)):
        found = value(load("fidelity"), scores(answer, "p"), [None] * 300, scores(truth, "p"))
        assert found == pytest.approx(expected, abs=1e-4)
    nothing = np.zeros((300, 1), np.float32)
    assert value(load("fidelity"), scores(truth, "p"), [None] * 300, scores(nothing, "p")) == 0.0
