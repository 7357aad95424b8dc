"""Multiple choice, from a local file: which of several continuations of a text a language model finds the likeliest.

As the lm-evaluation-harness does it (https://github.com/EleutherAI/lm-evaluation-harness,
``ConfigurableTask.process_results`` and ``TemplateLM._encode_pair``): the continuation is a space and the choice; white space
at the end of the context moves to the continuation; the tokens of the continuation are those of the whole behind as many as
the context alone has. The model's answer is the choice with the largest log-likelihood, summed over its tokens (``acc``), per
character (``acc_norm``) or per byte of UTF-8 (``acc_bytes``).
"""

from __future__ import annotations

__all__ = ["ChoiceItem", "ChoiceWindows", "Choices", "choice_rows", "choice_windows", "read_choices"]

import dataclasses
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.datasets.plain_rows import TABLES, plain_rows
from mopt.datasets.windows import Tokenize, special_ends
from mopt.errors import UserError
from mopt.evaluators._metric import Metric
from mopt.model.signature import Feed
from mopt.runtimes.language._base import TokenScores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]
    Tokens = npt.NDArray[np.int64]

_CONTEXTS = ("question", "query", "context", "ctx", "prompt", "input", "sentence", "goal")
_CHOICES = ("choices", "options", "endings", "answers", "candidates")
_ANSWERS = ("answer", "label", "gold", "answerKey", "answer_key", "answer_idx", "correct", "target")
_NORMS = {"none": 0, "characters": 1, "bytes": 2}
_HINT = (
    'write lines such as {"question": "...", "choices": ["...", "..."], "answer": 0}; an answer is an index from 0 or a letter'
)


@dataclasses.dataclass(frozen=True)
class ChoiceItem:
    """A question.

    Attributes:
        name: File and row.
        context: What comes before the choices.
        choices: Two or more.
        answer: Index of the right one.
        delimiter: Between the context and a choice.
    """

    name: str
    context: str
    choices: tuple[str, ...]
    answer: int
    delimiter: str = " "


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices(Metric):
    """Share of the questions whose right choice the model finds the likeliest. A sample is a question: see :func:`choice_rows`.

    Attributes:
        norm: What a choice's log-likelihood is divided by: nothing (lm-eval's ``acc``), its ``characters`` (``acc_norm``) or
        its
            ``bytes`` (``acc_bytes``).
    """

    unit: ClassVar[str] = "share"

    norm: Literal["none", "characters", "bytes"] = "characters"

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return whether the model is right by each norm, shape [3].

        Args:
            outputs: ``loglikelihood`` of the choices, their ``characters`` and ``bytes``, shape [choices] each.
            label: Index of the right one.
            reference: Not looked at.
        """
        import numpy as np

        sums = np.asarray(outputs["loglikelihood"], np.float64)
        answers = (sums, sums / outputs["characters"], sums / outputs["bytes"])
        return np.array([float(int(answer.argmax()) == label) for answer in answers])

    def scores(self, rows: Rows) -> Rows:
        """Return whether the model is right, shape [n]."""
        return rows[:, _NORMS[self.norm]]

    def decides(self, rows: Rows) -> bool:
        """Return True: an answer is right or wrong."""
        return True


@dataclasses.dataclass(frozen=True)
class ChoiceWindows:
    """What is scored for questions: one window for each choice of each.

    Attributes:
        items: The questions.
        windows: Token numbers, shape [n] each, question by question and choice by choice.
        counts: Tokens of the continuation at the end of each.
        cut: Windows whose context was too long and was cut at its beginning.
    """

    items: tuple[ChoiceItem, ...]
    windows: tuple[Tokens, ...]
    counts: tuple[int, ...]
    cut: int


def choice_windows(items: Sequence[ChoiceItem], tokenize: Tokenize, *, context: int) -> ChoiceWindows:
    """Return what has to be scored.

    Args:
        items: Questions.
        tokenize: Text -> token numbers, with what the model's tokenizer puts before a text.
        context: Tokens that a window may have.

    Raises:
        UserError: When a choice alone has more.
    """
    import numpy as np

    before, behind = special_ends(tokenize)
    windows, counts, cut = [], [], 0
    for item in items:
        for choice in item.choices:
            head = item.context.rstrip()
            tail = f"{item.context[len(head) :]}{item.delimiter}{choice}" if head else choice
            whole, alone = (_without(list(tokenize(text)), behind) for text in (head + tail, head))
            count = len(whole) - len(alone) if head else len(whole) - len(before)
            count = min(max(1, count), len(whole) - 1)
            if count < 1 or count + max(1, len(before)) > context:
                raise UserError(f"{item.name}: a choice has {count} tokens, and there is room for {context}", "leave it out")
            if len(whole) > context:
                whole = before + whole[len(whole) - (context - len(before)) :]
                cut += 1
            windows.append(np.array(whole, np.int64))
            counts.append(count)
    return ChoiceWindows(tuple(items), tuple(windows), tuple(counts), cut)


def choice_rows(scores: Sequence[TokenScores], windows: ChoiceWindows) -> Rows:
    """Return rows for :class:`Choices`, shape [questions, 3]."""
    import numpy as np

    metric, at, rows = Choices(), 0, []
    for item in windows.items:
        span = range(at, at + len(item.choices))
        at += len(item.choices)
        sums = [float(scores[index].logprob[-windows.counts[index] :].sum(dtype=np.float64)) for index in span]
        outputs = {
            "loglikelihood": np.array(sums),
            "characters": np.array([float(max(1, len(choice))) for choice in item.choices]),
            "bytes": np.array([float(max(1, len(choice.encode("utf-8", "replace")))) for choice in item.choices]),
        }
        rows.append(metric.rows(outputs, item.answer, {}))
    return np.stack(rows)


def read_choices(path: Path) -> tuple[ChoiceItem, ...]:
    """Read questions from JSON Lines, a JSON list, CSV, TSV or Parquet.

    What is understood: the question as ``question``, ``query``, ``context``, ``ctx``, ``prompt``, ``input``, ``sentence`` or
    ``goal``; choices as a list, as ``{"text": [...], "label": [...]}`` (ARC), as ``sol1`` and ``sol2`` (PIQA), ``option1`` and
    ``option2`` (WinoGrande, where ``_`` in the sentence is the gap) or ``A``, ``B``, ...; the answer as an index, a letter, a
    label or the text of a choice. Indices are from 0, unless one of them equals the number of choices and none is 0.

    Raises:
        UserError: When it is missing, damaged, empty, or a row is no question.
    """
    if not path.is_file() or path.suffix.lower() not in TABLES:
        raise UserError(f"{path} is no table of questions", _HINT)
    parsed = [_parts(row, f"{path.name} row {number}") for number, row in enumerate(plain_rows(path), start=1)]
    numbers = [(int(answer), len(choices)) for _, _, choices, answer, labels in parsed if not labels and _is_number(answer)]
    from_one = any(number == count for number, count in numbers) and not any(number == 0 for number, _ in numbers)
    items = []
    for name, context, choices, answer, labels in parsed:
        items.append(_item(name, context, choices, _index(answer, choices, labels, from_one, name)))
    if not items:
        raise UserError(f"there is no question in {path.name}", _HINT)
    return tuple(items)


_Parts = tuple[str, str, list[str], Any, list[str]]


def _item(name: str, context: str, choices: list[str], answer: int) -> ChoiceItem:
    """Return a question; of a sentence with a gap the choices are its completions (Trinh and Le 2018 score the rest alone)."""
    before, gap, after = context.partition("_")
    if gap and after.strip() and before.strip() and "_" not in after:
        return ChoiceItem(name, before.rstrip(), tuple(f"{choice}{after}" for choice in choices), answer)
    return ChoiceItem(name, context, tuple(choices), answer)


def _parts(row: Mapping[str, Any], name: str) -> _Parts:
    context = next((row[key] for key in _CONTEXTS if isinstance(row.get(key), str)), None)
    if isinstance(context, str) and isinstance(row.get("context"), str) and row["context"] != context:
        context = f"{row['context']}\n{context}"  # a passage and a question about it
    choices, labels = _choices(row)
    answer = next((row[key] for key in _ANSWERS if row.get(key) is not None and not isinstance(row[key], list | dict)), None)
    if context is None or len(choices) < 2 or answer is None or len(set(choices)) < len(choices):
        missing = "question" if context is None else "answer" if answer is None else "two choices that differ"
        raise UserError(f"{name} has no {missing}", _HINT)
    return name, context, choices, answer, labels


def _choices(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    value = next((row[key] for key in _CHOICES if isinstance(row.get(key), list | dict)), None)
    if isinstance(value, dict):
        return [str(text) for text in value.get("text", [])], [str(label) for label in value.get("label", [])]
    if isinstance(value, list):
        if all(isinstance(entry, dict) for entry in value):
            return [str(entry.get("text", "")) for entry in value], [str(e["label"]) for e in value if "label" in e]
        return [str(entry) for entry in value], []
    for prefix in ("sol", "option", "choice", "ending"):
        numbered = [str(row[key]) for number in range(10) if (key := f"{prefix}{number}") in row]
        if numbered:
            return numbered, []
    letters = [letter for letter in string.ascii_uppercase if isinstance(row.get(letter), str)]
    return [row[letter] for letter in letters], letters


def _is_number(answer: Any) -> bool:
    return (isinstance(answer, str) and answer.strip().isdecimal()) or (
        isinstance(answer, int) and not isinstance(answer, bool)
    )


def _index(answer: Any, choices: list[str], labels: list[str], from_one: bool, name: str) -> int:
    text = str(answer).strip()
    index = -1
    if text in labels:
        index = labels.index(text)
    elif _is_number(answer):
        index = int(answer) - from_one
    elif len(text.strip("().")) == 1 and text.strip("().").upper() in string.ascii_uppercase:
        index = string.ascii_uppercase.index(text.strip("().").upper())
    elif answer in choices:
        index = choices.index(answer)
    if not 0 <= index < len(choices):
        raise UserError(f"{name}: the answer {text[:40]} is none of its {len(choices)} choices", _HINT)
    return index


def _without(ids: list[int], behind: list[int]) -> list[int]:
    return ids[: len(ids) - len(behind)] if behind and ids[len(ids) - len(behind) :] == behind else ids
