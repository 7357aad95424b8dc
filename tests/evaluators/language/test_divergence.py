import numpy as np
import pytest

from mopt.datasets.windows import ScoredWindows
from mopt.evaluators.language.divergence import (
    document_estimate,
    greedy_divergence,
    measure_divergence,
    position_divergences,
)
from mopt.runtimes.language._base import Generation, TokenScores

VOCABULARY = 40


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def windows_of(*sizes, seed=0):
    random = np.random.default_rng(seed)
    windows = tuple(random.integers(0, VOCABULARY, size + 1) for size in sizes)
    names = tuple(f"d{place}" for place in range(len(sizes)))
    return ScoredWindows(windows, (0,) * len(sizes), names, dict.fromkeys(names, 1), max(sizes) + 1, 1)


def scores_of(windows, probabilities, top):
    """What a runtime says of distributions, one array of shape [n - 1, vocabulary] a window."""
    made = []
    for window, p in zip(windows.windows, probabilities, strict=True):
        order = np.argsort(-p, axis=1, kind="stable")[:, :top]
        own = np.log(p[np.arange(len(p)), window[1:]]).astype(np.float32)
        likeliest = np.log(np.take_along_axis(p, order, axis=1)).astype(np.float32)
        made.append(TokenScores(own, order.astype(np.int32), likeliest))
    return made


def two_models(windows, noise, seed=1):
    random = np.random.default_rng(seed)
    logits = [random.normal(0, 2, (len(window) - 1, VOCABULARY)) for window in windows.windows]
    return [softmax(each) for each in logits], [softmax(each + random.normal(0, noise, each.shape)) for each in logits]


def true_kl(p, q):
    return np.concatenate([(a * np.log(a / b)).sum(axis=1) for a, b in zip(p, q, strict=True)])


def test_with_all_tokens_it_is_the_divergence_itself():
    windows = windows_of(50, 70)
    p, q = two_models(windows, 0.7)
    kl, coverage = position_divergences(scores_of(windows, p, VOCABULARY), scores_of(windows, q, VOCABULARY), windows)
    np.testing.assert_allclose(kl, true_kl(p, q), rtol=1e-4, atol=1e-6)
    assert coverage == pytest.approx(1)


@pytest.mark.parametrize(("top_p", "top_q"), [(1, 1), (1, 8), (4, 4), (8, 2), (20, 20), (39, 39)])
@pytest.mark.parametrize("noise", [0.01, 0.5, 3.0])
def test_with_few_tokens_it_is_never_more_than_the_truth(top_p, top_q, noise):
    windows = windows_of(300)
    p, q = two_models(windows, noise)
    kl, _ = position_divergences(scores_of(windows, p, top_p), scores_of(windows, q, top_q), windows)
    truth = true_kl(p, q)
    assert (kl <= truth + 2e-5).all()
    assert (kl >= 0).all()


def test_with_more_tokens_it_is_nearer_to_the_truth():
    windows = windows_of(300)
    p, q = two_models(windows, 0.5)
    means = [
        position_divergences(scores_of(windows, p, top), scores_of(windows, q, top), windows)[0].mean()
        for top in (1, 4, 16, 32)
    ]
    assert means == sorted(means)
    assert means[-1] > 0.9 * true_kl(p, q).mean()


def test_a_likeliest_token_that_the_other_does_not_even_list_costs_what_it_must():
    windows = ScoredWindows((np.array([0, 9]),), (0,), ("d",), {"d": 1}, 2, 1)
    p, q = np.full((1, VOCABULARY), 0.001), np.full((1, VOCABULARY), 0.001)
    p[0, 3], q[0, 5] = 1 - 0.039, 1 - 0.039
    q[0, 7] = p[0, 7] = 0.002
    p, q = p / p.sum(), q / q.sum()
    kl, _ = position_divergences(scores_of(windows, [p], 2), scores_of(windows, [q], 2), windows)
    assert 5 < kl[0] <= true_kl([p], [q])[0]


def test_the_record_of_two_equal_models_and_of_two_different_ones():
    windows = windows_of(60, 40, 80)
    p, q = two_models(windows, 1.0)
    reference, candidate = scores_of(windows, p, 8), scores_of(windows, q, 8)
    same = measure_divergence(reference, reference, windows, vocabulary=VOCABULARY)
    assert (same.kl.value, same.agreement.value, same.distance.value, same.shift.value) == (0, 1, 0, 0)
    assert (same.tokens, same.documents, same.top, same.exact) == (180, 3, 8, False)
    other = measure_divergence(reference, candidate, windows, vocabulary=VOCABULARY)
    assert other.kl.low < other.kl.value < other.kl.high
    expected = np.concatenate([a.argmax(axis=1) == b.argmax(axis=1) for a, b in zip(p, q, strict=True)]).mean()
    assert other.agreement.value == pytest.approx(expected)
    assert other.distance.value > abs(other.shift.value)
    assert other.kl_quantiles["0.5"] < other.kl_quantiles["0.99"] <= other.kl_quantiles["1"]
    assert 0.5 < other.coverage < 1
    whole = scores_of(windows, p, VOCABULARY)
    assert measure_divergence(whole, whole, windows, vocabulary=VOCABULARY).exact


@pytest.mark.slow
def test_an_interval_over_documents_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        sizes = random.integers(5, 200, 25)
        values = np.concatenate([random.normal(random.normal(0.1, 0.05), 0.3, size) for size in sizes])
        groups = [f"d{place}" for place, size in enumerate(sizes) for _ in range(size)]
        estimate = document_estimate(values, groups, 0.95)
        covered += estimate.low <= 0.1 <= estimate.high
    assert 0.91 <= covered / 400 <= 0.98


def test_one_document_says_nothing_of_others():
    estimate = document_estimate(np.array([1.0, 3.0]), ["a", "a"], 0.95)
    assert (estimate.value, estimate.low, estimate.high) == (2, -np.inf, np.inf)


def written(*ids):
    return Generation(ids, 0.1, 0.1)


def test_where_greedy_continuations_part():
    reference = [written(1, 2, 3), written(1, 2, 3), written(4, 5), written(7)]
    candidate = [written(1, 2, 3), written(1, 9, 3), written(4, 5, 6), written(8)]
    greedy = greedy_divergence(reference, candidate, 3)
    assert greedy.positions == (None, 1, 2, 0)
    assert (greedy.prompts, greedy.identical, greedy.median) == (4, 0.25, 1.5)
    assert greedy_divergence(reference, reference, 3).median is None
