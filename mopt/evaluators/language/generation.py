"""Whether a candidate still writes: public checkpoints have passed every test on given text, and wrote "!!!!" when asked.

Both models continue the same prompts greedily. A continuation is broken when

- ``empty``: it has no text;
- ``one token``: one token, or one character, is more than half of it in a row;
- ``loop``: of its pairs of neighbouring tokens less than a quarter are different (distinct-2, Li et al. 2016, "A
  Diversity-Promoting Objective Function for Neural Conversation Models");
- ``garbage``: more than a twentieth of its characters are none of any text;
- ``not its own choice``: a fifth of its tokens or more are not what the same model finds the likeliest when it is given prompt
  and continuation in one go, which is what scoring does: then generating and scoring do not compute the same, as with a broken
  KV cache;
- ``improbable``: the reference finds it less likely than its own by a factor of ``e ** 2`` per token or more.

A small base model loops by itself. So what counts are the prompts at which only one of the two is broken, by the exact McNemar
test: a failure when it is certain to 99 % or all prompts are broken and none of the reference's, and ``inconclusive`` when more
than one prompt got worse and that could be chance.
"""

from __future__ import annotations

__all__ = ["Writer", "Written", "judge_writing", "with_surprise", "write_texts"]

import collections
import dataclasses
import itertools
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from mopt.evaluators.noninferiority import mcnemar
from mopt.records.divergence import GenerationCheck, Writing
from mopt.runtimes.language._base import Generation, TokenScores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_LONG = 8
"""Tokens below which nothing is said of repetition."""
_MOST_RUN = 0.5
_LEAST_DISTINCT = 0.25
_MOST_GARBAGE = 0.05
_LEAST_OWN = 0.8
_NEARLY = 0.25
"""Nats by which a token may be less likely than the likeliest one: kernels for one token and for many round differently."""
_MOST_SURPRISE = 2.0
"""Nats per token more than the reference's own text."""
_CERTAIN, _PERHAPS = 0.01, 0.25
_LEAST_PROMPTS = 3
_WHITE = "\n\r\t"


@dataclasses.dataclass(frozen=True)
class Written:
    """What a model wrote after a prompt.

    Attributes:
        prompt: Token numbers, shape [n].
        ids: The new tokens.
        text: Theirs.
        scores: What the model says of the new tokens when it is given all in one go; nothing where it wrote none.
        surprise: Mean negative log-likelihood of the new tokens by the reference, nats per token.
    """

    prompt: Tokens
    ids: tuple[int, ...]
    text: str
    scores: TokenScores | None = None
    surprise: float | None = None


class Writer(Protocol):
    """A session or process of a language model."""

    def generate(self, prompt: Tokens, count: int) -> Generation:
        """Continue a prompt greedily."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""

    def score(self, windows: Sequence[Tokens], top: int) -> list[TokenScores]:
        """Return what the model says of the tokens of each window."""


def write_texts(model: Writer, prompts: Sequence[Tokens], count: int, *, top: int = 16) -> list[Written]:
    """Let a model continue prompts greedily, and score what it wrote.

    Args:
        model: A session, or its process.
        prompts: Token numbers, shape [n] each.
        count: New tokens at most.
        top: Likeliest tokens that are asked for, for the entropy.
    """
    texts = []
    for prompt in prompts:
        ids = model.generate(prompt, count).ids
        texts.append(Written(prompt, ids, model.detokenize(ids)))
    scores = iter(_continuations(model, texts, top))
    return [dataclasses.replace(text, scores=next(scores)) if text.ids else text for text in texts]


def with_surprise(texts: Sequence[Written], reference: Writer) -> list[Written]:
    """Return the same texts with what the reference thinks of them."""
    scores = iter(_continuations(reference, texts, 1))
    return [
        dataclasses.replace(text, surprise=-float(next(scores).logprob.mean(dtype="float64"))) if text.ids else text
        for text in texts
    ]


def judge_writing(reference: Sequence[Written], candidate: Sequence[Written]) -> GenerationCheck:
    """Say whether a candidate still writes as the reference does; see the module for how.

    Args:
        reference: One for each prompt.
        candidate: The same prompts.
    """
    pairs = list(zip(reference, candidate, strict=True))
    count = len(pairs)
    broken: dict[str, tuple[int, int]] = {}
    reasons: list[tuple[float, str]] = []
    for kind, is_broken in _KINDS.items():
        flags = [(is_broken(left, left), is_broken(right, left)) for left, right in pairs]
        gained = sum(before and not after for before, after in flags)
        lost = sum(after and not before for before, after in flags)
        broken[kind] = gained, lost
        chance = 0.0 if lost == count >= _LEAST_PROMPTS else mcnemar(lost, gained)
        if lost > max(1, gained):
            reasons.append((chance, f"{kind}: {lost} of {count} continuations, and {gained} of the reference's alone"))
    chance, reason = min(reasons, default=(1.0, ""))
    verdict = "fail" if chance <= _CERTAIN else "inconclusive" if chance <= _PERHAPS else "pass"
    return GenerationCheck.model_validate(
        {
            "prompts": count, "verdict": verdict, "reason": reason if verdict != "pass" else "", "broken": broken,
            "reference": _writing(reference), "candidate": _writing(candidate),
        }
    )  # fmt: skip


def _continuations(model: Writer, texts: Sequence[Written], top: int) -> list[TokenScores]:
    """Return what a model says of the new tokens of each text that has any."""
    import numpy as np

    written = [text for text in texts if text.ids]
    windows = [np.concatenate([text.prompt, np.array(text.ids, np.int64)]) for text in written]
    scores = model.score(windows, top) if windows else []
    parts = []
    for text, score in zip(written, scores, strict=True):
        new = slice(len(text.prompt) - 1, None)
        parts.append(TokenScores(score.logprob[new], score.top_ids[new], score.top_logprobs[new]))
    return parts


def _is_empty(text: Written, _: Written) -> bool:
    return not text.text.strip()


def _is_one_token(text: Written, _: Written) -> bool:
    return len(text.ids) >= _LONG and max(_run(text.ids), _run_of_characters(text)) > _MOST_RUN


def _is_loop(text: Written, _: Written) -> bool:
    return len(text.ids) >= _LONG and _distinct_pairs(text.ids) < _LEAST_DISTINCT


def _is_garbage(text: Written, _: Written) -> bool:
    return _garbage(text.text) > _MOST_GARBAGE


def _is_not_its_own(text: Written, _: Written) -> bool:
    likeliest = _own_choice(text)
    return likeliest is not None and len(text.ids) >= _LONG and likeliest < _LEAST_OWN


def _is_improbable(text: Written, reference: Written) -> bool:
    if text.surprise is None or reference.surprise is None or len(text.ids) < _LONG:
        return False
    return text.surprise > reference.surprise + _MOST_SURPRISE


_KINDS: dict[str, Callable[[Written, Written], bool]] = {
    "empty": _is_empty,
    "one token": _is_one_token,
    "loop": _is_loop,
    "garbage": _is_garbage,
    "not its own choice": _is_not_its_own,
    "improbable": _is_improbable,
}


def _writing(texts: Sequence[Written]) -> Writing:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    characters = sum(len(text.text) for text in texts)
    return Writing(
        distinct_2=mean([_distinct_pairs(text.ids) for text in texts]) or 0.0,
        longest_run=mean([_run(text.ids) for text in texts]) or 0.0,
        compression=mean([_compression(text.text) for text in texts]) or 0.0,
        garbage=sum(_garbage(text.text) * len(text.text) for text in texts) / max(1, characters),
        empty=sum(_is_empty(text, text) for text in texts) / max(1, len(texts)),
        entropy=mean([_entropy(text) for text in texts]),
        own_choice=mean([_own_choice(text) for text in texts]),
        surprise=mean([text.surprise for text in texts]),
    )


def _distinct_pairs(ids: Sequence[int]) -> float:
    pairs = list(itertools.pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def _run(items: Sequence[object]) -> float:
    """Return the longest run of one item over all of them."""
    return max((len(list(run)) for _, run in itertools.groupby(items)), default=0) / max(1, len(items))


def _run_of_characters(text: Written) -> float:
    shown = text.text.strip()
    return _run(shown) if len(shown) >= _LONG else 0.0


def _compression(text: str) -> float:
    data = text.encode("utf-8", "replace")
    return len(data) / len(zlib.compress(data)) if data else 0.0


def _garbage(text: str) -> float:
    kinds = collections.Counter(
        character == "\N{REPLACEMENT CHARACTER}"
        or (unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs") and character not in _WHITE)
        for character in text
    )
    return kinds[True] / len(text) if text else 0.0


def _entropy(text: Written) -> float | None:
    """Return the mean entropy of the next-token distributions, what is not among the likeliest in one bin, in nats."""
    import numpy as np

    if text.scores is None:
        return None
    p = np.exp(text.scores.top_logprobs.astype(np.float64))
    rest = np.maximum(1 - p.sum(axis=1), 0.0)[:, None]
    p = np.concatenate([p, rest], axis=1)
    return float(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1).mean())


def _own_choice(text: Written) -> float | None:
    if text.scores is None:
        return None
    nearly = text.scores.top_logprobs[:, 0] - text.scores.logprob <= _NEARLY
    return float(nearly.mean())
