import dataclasses

import numpy as np
import pytest

from mopt.evaluators.language.generation import judge_writing, with_surprise, write_texts
from mopt.runtimes.language._base import Generation, TokenScores

WORDS = {place: f"w{place}" for place in range(60)}


@dataclasses.dataclass
class Bigrams:
    """A language model of two tokens: what follows depends on the last one alone."""

    logits: np.ndarray

    def after(self, token):
        row = self.logits[token]
        return row - np.log(np.exp(row).sum())

    def score(self, windows, top):
        scores = []
        for window in windows:
            logprobs = np.stack([self.after(token) for token in window[:-1]])
            order = np.argsort(-logprobs, axis=1)[:, :top]
            own = logprobs[np.arange(len(logprobs)), window[1:]]
            likeliest = np.take_along_axis(logprobs, order, axis=1)
            scores.append(TokenScores(own.astype(np.float32), order.astype(np.int32), likeliest.astype(np.float32)))
        return scores

    def generate(self, prompt, count):
        ids, last = [], int(prompt[-1])
        for _ in range(count):
            last = int(self.after(last).argmax())
            ids.append(last)
        return Generation(tuple(ids), 0.1, 0.1)

    def detokenize(self, ids):
        return " ".join(WORDS[token] for token in ids)


class ForgetsWhatItWrote(Bigrams):
    """Scores as it should, and generates from a cache that holds something else."""

    def generate(self, prompt, count):
        random = np.random.default_rng(int(prompt[-1]))
        return Generation(tuple(self.generate_one(random) for _ in range(count)), 0.1, 0.1)

    def generate_one(self, random):
        return int(self.after(int(random.integers(len(WORDS)))).argmax())


class Writes(Bigrams):
    def generate(self, prompt, count):
        return Generation(tuple([self.token] * count if self.token is not None else []), 0.1, 0.1)


PROMPTS = [np.array([place]) for place in range(8)]


def cycle(length, seed=0):
    """Logits of a model that goes through a cycle of so many tokens."""
    logits = np.random.default_rng(seed).normal(0, 1, (60, 60))
    for token in range(60):
        logits[token, (token + 1) % length] = 7
    return logits


def judged(reference, candidate, count=40):
    left, right = write_texts(reference, PROMPTS, count), write_texts(candidate, PROMPTS, count)
    return judge_writing(with_surprise(left, reference), with_surprise(right, reference))


def test_a_model_writes_as_itself_and_as_one_that_is_nearly_the_same():
    reference = Bigrams(cycle(60))
    assert judged(reference, reference).verdict == "pass"
    check = judged(reference, Bigrams(cycle(60) + np.random.default_rng(1).normal(0, 0.2, (60, 60))))
    assert (check.verdict, check.reason) == ("pass", "")
    assert check.candidate.own_choice == check.reference.own_choice == 1
    assert check.reference.distinct_2 == 1
    assert check.reference.surprise < 0.2
    assert 0 < check.reference.entropy < np.log(60)


def test_a_small_model_that_loops_is_no_reason_when_the_reference_loops_too():
    check = judged(Bigrams(cycle(3)), Bigrams(cycle(3, seed=5)))
    assert check.verdict == "pass"
    assert check.candidate.distinct_2 < 0.1


def test_one_that_loops_where_the_reference_does_not():
    check = judged(Bigrams(cycle(60)), Bigrams(cycle(3)))
    assert check.verdict == "fail"
    assert check.broken["loop"] == (0, 8)


def test_a_broken_cache_is_seen_though_all_scores_are_right():
    reference, candidate = Bigrams(cycle(60)), ForgetsWhatItWrote(cycle(60))
    windows = [np.arange(30)]
    assert np.array_equal(reference.score(windows, 4)[0].logprob, candidate.score(windows, 4)[0].logprob)
    check = judged(reference, candidate)
    assert check.verdict == "fail"
    assert check.broken["not its own choice"] == (0, 8)
    assert check.broken["improbable"] == (0, 8)
    assert check.candidate.surprise > check.reference.surprise + 2


@pytest.mark.parametrize(
    ("word", "kind"),
    [("!", "one token"), ("\ufffd", "garbage"), ("\x00\x01", "garbage"), (None, "empty")],
)
def test_what_public_checkpoints_have_written(monkeypatch, word, kind):
    monkeypatch.setitem(WORDS, 7, word) if word else None
    candidate = Writes(cycle(60))
    candidate.token = 7 if word else None
    check = judged(Bigrams(cycle(60)), candidate)
    assert check.verdict == "fail"
    assert check.broken[kind] == (0, 8)
    assert "8 of 8 continuations" in check.reason
    assert type(check).model_validate_json(check.model_dump_json()) == check


def test_a_part_of_the_prompts_leaves_it_open():
    class Sometimes(Bigrams):
        def generate(self, prompt, count):
            ids = super().generate(prompt, count).ids
            return Generation((7,) * count if prompt[-1] < 3 else ids, 0.1, 0.1)

    check = judged(Bigrams(cycle(60)), Sometimes(cycle(60)))
    assert check.verdict == "inconclusive"
    assert "3 of 8 continuations, and 0 of the reference's alone" in check.reason


def test_text_of_other_scripts_is_no_garbage(monkeypatch):
    for place, word in enumerate(["北京", "こんにちは", "Привет", "שלום", "👩\u200d👩\u200d👧", "é\n", "\t½"]):
        monkeypatch.setitem(WORDS, place, word)
    check = judged(Bigrams(cycle(60)), Bigrams(cycle(60)))
    assert check.candidate.garbage == 0
