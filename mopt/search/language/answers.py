"""What a model answers in its runtime: scores of the evaluation text, greedy answers, what its tokenizer and template make."""

from __future__ import annotations

__all__ = ["AnswerTask", "Answers", "answers_of"]

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.files import Model
from mopt.runtimes.language._base import Generation, LanguageProcess, LanguageRuntime, TokenScores
from mopt.system.digests import digest
from mopt.system.store import Store, code_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_SCORES, _REST = "scores.npz", "answers.json"
_AT_A_TIME = 8
"""Windows that are scored in one request, so that progress can be told and no answer is huge."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerTask:
    """What is asked of every model.

    Attributes:
        windows: Token numbers to score.
        prompts: Token numbers, shape [n] each, to continue greedily.
        answer: Tokens of a greedy answer.
        top: Likeliest tokens that are kept at each position.
        texts: Of which the tokens are compared.
        chats: Whose prompts are compared.
        isa: Instruction sets of this machine: kernels, and with them numbers, depend on them.
        store: Where answers are kept.
    """

    windows: Sequence[Tokens]
    prompts: Sequence[Tokens]
    answer: int
    top: int
    texts: Sequence[str]
    chats: Sequence[Sequence[Mapping[str, str]]]
    isa: Sequence[str]
    store: Store

    def key(self) -> dict[str, Any]:
        """Everything that answers depend on besides the model and the runtime, as JSON data."""
        asked = [[[int(token) for token in window] for window in group] for group in (self.windows, self.prompts)]
        return {
            "asked": digest(asked), "answer": self.answer, "top": self.top, "texts": list(self.texts),
            "chats": [[dict(message) for message in chat] for chat in self.chats], "isa": list(self.isa), "code": code_digest(),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answered.

    Attributes:
        scores: One for each window.
        greedy: What each prompt is continued with.
        written: The same as text.
        tokens: Of each text.
        prompts: Of each chat; None where there is no template, or it does not know a role.
        evidence: What really executes it.
        load_seconds: For loading it.
        peak_bytes: Largest resident memory of its process.
        look: Tokens of an answer per second.
    """

    scores: Sequence[TokenScores]
    greedy: Sequence[Generation]
    written: Sequence[str]
    tokens: Sequence[tuple[int, ...]]
    prompts: Sequence[str | None]
    evidence: Mapping[str, Any]
    load_seconds: float
    peak_bytes: int
    look: float


def answers_of(runtime: LanguageRuntime, model: Model, task: AnswerTask) -> Answers:
    """Ask a model in a process of its own; what was asked of the same before is taken from the store.

    Raises:
        CandidateRejectedError: When the runtime crashes, fails or hangs, or a score is no number.
        MissingEnvironmentError: When the runtime is not installed.
    """
    key = {"model": model.digest, "runtime": runtime.key(), "task": task.key()}
    with task.store.entry("language-answers", key) as entry:
        if entry.scratch is not None:
            _write(entry.scratch, _ask(runtime, model, task))
    return _read(entry.folder)


def _ask(runtime: LanguageRuntime, model: Model, task: AnswerTask) -> Answers:
    import numpy as np

    with LanguageProcess(runtime, model) as process:
        scores = [
            each
            for start in range(0, len(task.windows), _AT_A_TIME)
            for each in process.score(task.windows[start : start + _AT_A_TIME], task.top)
        ]
        if not all(np.isfinite(each.logprob).all() for each in scores):
            raise CandidateRejectedError(Rejection.NOT_FINITE, "tokens of the text have no finite probability")
        generations = [process.generate(prompt, task.answer) for prompt in task.prompts]
        rates = [(len(each.ids) - 1) / each.rest_seconds for each in generations if len(each.ids) > 1 and each.rest_seconds > 0]
        return Answers(
            scores=scores,
            greedy=generations,
            written=[process.detokenize(each.ids) for each in generations],
            tokens=[tuple(process.tokenize(text)) for text in task.texts],
            prompts=[_rendered(process, chat) for chat in task.chats],
            evidence=process.evidence(),
            load_seconds=process.load_seconds(),
            peak_bytes=process.peak_bytes(),
            look=max(rates, default=0.0),
        )


def _rendered(process: LanguageProcess, chat: Sequence[Mapping[str, str]]) -> str | None:
    try:
        return process.render(chat)
    except NotApplicableError:
        return None


def _write(folder: Path, answers: Answers) -> None:
    import numpy as np

    lengths = np.array([len(scores.logprob) for scores in answers.scores])
    joined = {
        field.name: np.concatenate([getattr(scores, field.name) for scores in answers.scores])
        for field in dataclasses.fields(TokenScores)
    }
    np.savez(folder / _SCORES, lengths=lengths, **joined)  # type: ignore[arg-type]
    rest = {name: getattr(answers, name) for name in _REST_FIELDS}
    rest["greedy"] = [dataclasses.asdict(generation) for generation in answers.greedy]
    (folder / _REST).write_text(json.dumps(rest), encoding="utf-8")


_REST_FIELDS = tuple(field.name for field in dataclasses.fields(Answers) if field.name != "scores")


def _read(folder: Path) -> Answers:
    import numpy as np

    with np.load(folder / _SCORES, allow_pickle=False) as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        names = [field.name for field in dataclasses.fields(TokenScores)]
        parts = zip(*(np.split(stored[name], ends) for name in names), strict=True)
        scores = [TokenScores(*part) for part in parts]
    rest = json.loads((folder / _REST).read_text(encoding="utf-8"))
    greedy = [Generation(**{**each, "ids": tuple(each["ids"])}) for each in rest["greedy"]]
    tokens = [tuple(ids) for ids in rest["tokens"]]
    return Answers(**{**rest, "greedy": greedy, "tokens": tokens, "scores": scores})
