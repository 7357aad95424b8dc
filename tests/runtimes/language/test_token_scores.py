"""Logits become logarithms of probabilities, in the order of the likeliest."""

import numpy as np
import pytest

from mopt.runtimes.language._token_scores import token_scores


def test_it_is_the_softmax_of_each_position():
    random = np.random.default_rng(0)
    logits = (random.standard_normal((151, 37)) * 20).astype(np.float32)
    window = random.integers(0, 37, 151)
    scores = token_scores(logits, window, 5)
    exact = logits.astype(np.float64)
    exact -= np.logaddexp.reduce(exact, axis=1, keepdims=True)
    assert scores.logprob == pytest.approx(exact[np.arange(150), window[1:]], abs=1e-5)
    assert scores.top_ids.tolist() == np.argsort(-exact[:150], axis=1)[:, :5].tolist()
    assert scores.top_logprobs == pytest.approx(-np.sort(-exact[:150], axis=1)[:, :5], abs=1e-5)
    assert (scores.logprob.dtype, scores.top_ids.dtype, scores.top_logprobs.dtype) == (np.float32, np.int32, np.float32)


def test_huge_logits_do_not_overflow():
    scores = token_scores(np.array([[1e30, -1e30, 1e30]] * 2, np.float32), np.array([0, 2]), 2)
    assert scores.logprob == pytest.approx([np.log(0.5)])


def test_ties_are_in_the_order_of_their_numbers():
    scores = token_scores(np.zeros((2, 4), np.float32), np.array([0, 1]), 4)
    assert scores.top_ids.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("top", "width"), [(0, 0), (9, 4)])
def test_no_more_than_there_are(top, width):
    assert token_scores(np.zeros((3, 4), np.float32), np.array([0, 1, 2]), top).top_ids.shape == (2, width)
