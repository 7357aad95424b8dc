"""What a model answers in its runtime: scores of the text, what it writes, what its tokenizer and its template make."""

from __future__ import annotations

__all__ = ["AnswerTask", "Answers", "answers_of"]

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.errors import CandidateRejectedError, Rejection
from mopt.evaluators.language import companions
from mopt.evaluators.language.companions import Answers as Companions
from mopt.evaluators.language.generation import Written, write_texts
from mopt.model.files import Model
from mopt.model.stop_tokens import stop_tokens
from mopt.records import units as q
from mopt.runtimes.language._base import LanguageProcess, LanguageRuntime, TokenScores
from mopt.system.digests import digest
from mopt.system.store import Store, code_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_SCORES, _REST = "scores.npz", "answers.json"
_LOOK = 16
"""Tokens of the answer that the speed is looked at with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerTask:
    """What is asked of every model.

    Attributes:
        windows: Token numbers to score, shape [n] each.
        prompts: Token numbers, shape [n] each, to continue greedily.
        answer: Tokens of a greedy answer.
        top: Likeliest tokens that are kept at each position.
        special: Special tokens as text, which a tokenizer must not split.
        bos: The start token by the source's files; None without.
        stops: Tokens that end an answer, by the source's files.
        isa: Instruction sets of this machine: kernels, and with them numbers, depend on them.
        store: Where answers are kept.
    """

    windows: Sequence[Tokens]
    prompts: Sequence[Tokens]
    answer: int
    top: int
    special: Sequence[str]
    bos: int | None
    stops: Sequence[int]
    isa: Sequence[str]
    store: Store

    def key(self) -> dict[str, Any]:
        """Everything that answers depend on besides the model and the runtime, as JSON data."""
        asked = [[[int(token) for token in window] for window in group] for group in (self.windows, self.prompts)]
        return {
            "asked": digest(asked), "answer": self.answer, "top": self.top, "special": list(self.special),
            "isa": list(self.isa), "code": code_digest(),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answered.

    Attributes:
        scores: One for each window.
        written: What each prompt is continued with.
        companions: What its tokenizer and its template make of golden texts and chats.
        evidence: What really executes it.
        load_seconds: For loading it.
        peak_bytes: Largest resident memory of its process.
        look: Tokens of an answer per second, as they were beside nothing else.
        seconds: That all of it took, loading included.
    """

    scores: Sequence[TokenScores]
    written: Sequence[Written]
    companions: Companions
    evidence: Mapping[str, Any]
    load_seconds: float
    peak_bytes: int
    look: float
    seconds: float


def answers_of(runtime: LanguageRuntime, model: Model, task: AnswerTask, patience: float = math.inf) -> Answers:
    """Ask a model in a process of its own; what was asked of the same before is taken from the store.

    Args:
        runtime: That serves it.
        model: On disk.
        task: What is asked.
        patience: Seconds that scoring may take, by the pace of its first windows.

    Raises:
        CandidateRejectedError: When the runtime crashes, fails, hangs or would take too long, or a score is no number.
        MissingEnvironmentError: When the runtime is not installed.
    """
    key = {"model": model.digest, "runtime": runtime.key(), "task": task.key()}
    with task.store.entry("language-answers", key) as entry:
        if entry.scratch is not None:
            _write(entry.scratch, _ask(runtime, model, task, patience))
    return _read(entry.folder, task)


def _ask(runtime: LanguageRuntime, model: Model, task: AnswerTask, patience: float) -> Answers:
    import numpy as np

    start = time.monotonic()
    with LanguageProcess(runtime, model) as process:
        _check_pace(process, task, patience)
        scores = process.score(task.windows, task.top)
        if not all(np.isfinite(each.logprob).all() for each in scores):
            raise CandidateRejectedError(Rejection.NOT_FINITE, "tokens of the text have no finite probability")
        return Answers(
            scores=scores,
            written=write_texts(process, task.prompts, task.answer),
            companions=companions.answers_of(process, special=task.special, stops=_stops(model, task), bos=task.bos),
            evidence=process.evidence(),
            load_seconds=process.load_seconds(),
            peak_bytes=process.peak_bytes(),
            look=_look(process, task),
            seconds=round(time.monotonic() - start, 2),
        )


def _check_pace(process: LanguageProcess, task: AnswerTask, patience: float) -> None:
    """Refuse what would score for hours, as kernels do that are emulated on this processor; the first window warms up."""
    if math.isinf(patience):
        return
    for window in task.windows[:2]:
        start = time.monotonic()
        process.score([window], task.top)
        seconds = time.monotonic() - start
        expected = seconds * sum(map(len, task.windows)) / len(window)
        if expected <= patience:
            return
    raise CandidateRejectedError(
        Rejection.SLOWER,
        f"it scores {q.digits(len(window) / seconds)} tokens/s here, and the text would take {q.about(expected)}: kernels that "
        "this processor has no instructions for",
    )


def _stops(model: Model, task: AnswerTask) -> Sequence[int]:
    """Tokens that end an answer by the files of a model; a GGUF keeps them in its header, which its export has checked."""
    return task.stops if model.format == "gguf" else stop_tokens(model.folder)


def _look(process: LanguageProcess, task: AnswerTask) -> float:
    answer = process.generate(task.prompts[0], _LOOK)
    start = time.perf_counter()
    answer = process.generate(task.prompts[0], _LOOK)
    took = answer.rest_seconds or time.perf_counter() - start
    return (len(answer.ids) - 1) / took if len(answer.ids) > 1 and took > 0 else 0.0


def _write(folder: Path, answers: Answers) -> None:
    import numpy as np

    written = [text.scores for text in answers.written if text.scores is not None]
    arrays = {**_joined("text", answers.scores), **(_joined("written", written) if written else {})}
    np.savez(folder / _SCORES, **arrays)  # type: ignore[arg-type]
    rest = {
        "written": [{"ids": list(text.ids), "text": text.text} for text in answers.written],
        "companions": dataclasses.asdict(answers.companions),
        **{name: getattr(answers, name) for name in _PLAIN},
    }
    (folder / _REST).write_text(json.dumps(rest), encoding="utf-8")


_PLAIN = ("evidence", "load_seconds", "peak_bytes", "look", "seconds")


def _joined(name: str, scores: Sequence[TokenScores]) -> dict[str, npt.NDArray[Any]]:
    import numpy as np

    fields = [field.name for field in dataclasses.fields(TokenScores)]
    joined = {f"{name}_{field}": np.concatenate([getattr(each, field) for each in scores]) for field in fields}
    return {f"{name}_lengths": np.array([len(each.logprob) for each in scores]), **joined}


def _parted(name: str, stored: Mapping[str, npt.NDArray[Any]]) -> list[TokenScores]:
    import numpy as np

    if f"{name}_lengths" not in stored:
        return []
    ends = np.cumsum(stored[f"{name}_lengths"])[:-1]
    fields = [field.name for field in dataclasses.fields(TokenScores)]
    return [TokenScores(*part) for part in zip(*(np.split(stored[f"{name}_{field}"], ends) for field in fields), strict=True)]


def _read(folder: Path, task: AnswerTask) -> Answers:
    import numpy as np

    with np.load(folder / _SCORES, allow_pickle=False) as stored:
        scores, of_written = _parted("text", stored), iter(_parted("written", stored))
    rest = json.loads((folder / _REST).read_text(encoding="utf-8"))
    written = [
        Written(prompt, tuple(text["ids"]), text["text"], next(of_written) if text["ids"] else None)
        for prompt, text in zip(task.prompts, rest["written"], strict=True)
    ]
    stored_companions = rest["companions"]
    made = Companions(
        tuple(map(tuple, stored_companions["tokens"])),
        tuple(stored_companions["round_trips"]),
        tuple(stored_companions["prompts"]),
        {text: tuple(ids) for text, ids in stored_companions["special"].items()},
        stored_companions["vocabulary"],
        tuple(stored_companions["stops"]),
        stored_companions["bos"],
    )
    return Answers(scores, written, made, **{name: rest[name] for name in _PLAIN})
