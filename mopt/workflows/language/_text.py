"""The user's text as a language model sees it: windows to score and to calibrate with, prompts, what everything is asked."""

from __future__ import annotations

__all__ = ["EvaluationText", "answer_task", "in_turn", "read_text", "reference_runtime", "speed_prompts", "windows_of"]

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.datasets.documents import Document, Documents, prepare_documents, rendered
from mopt.datasets.windows import ScoredWindows, calibration_windows, scored_windows
from mopt.evaluators.language.choices import ChoiceWindows, choice_windows, read_choices
from mopt.evaluators.language.companions import special_texts
from mopt.evaluators.language.lm_eval_task import is_lm_eval_task, read_lm_eval_task
from mopt.model.checkpoint import Checkpoint, open_checkpoint
from mopt.model.files import Model
from mopt.model.stop_tokens import stop_tokens
from mopt.model.tokens import TokenWindows, write_windows
from mopt.profiles.machine import detect
from mopt.progress import Progress
from mopt.recipe import Recipe
from mopt.runtimes.language._base import LanguageProcess, LanguageRuntime
from mopt.runtimes.language.llama_cpp import LlamaCpp
from mopt.runtimes.language.transformers import Transformers
from mopt.search.language.answers import AnswerTask
from mopt.system.digests import digest
from mopt.system.store import Store, code_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_TOP = 64
"""Likeliest tokens that are kept at each position, for the divergence."""
_PROMPTS, _PROMPT, _ANSWER = 8, 32, 32
"""Prompts that are continued greedily, their tokens, and those of an answer."""
_GOLDEN = 4
_CALIBRATION_LENGTH = 512
_MOST_SPECIAL = 8


@dataclasses.dataclass(frozen=True)
class EvaluationText:
    """The user's text, as this model sees it.

    Attributes:
        windows: To score.
        choices: Questions of the user's, and what is scored for them; None without.
        calibration: Windows to calibrate with, of documents that are not scored.
        golden: A few pieces of the text, for the golden answers.
        digest: Of the documents.
        description: JSON data for the manifest.
    """

    windows: ScoredWindows
    choices: ChoiceWindows | None
    calibration: TokenWindows
    golden: tuple[str, ...]
    digest: str
    description: dict[str, Any]


def read_text(
    recipe: Recipe,
    source: Model,
    runtime: LanguageRuntime,
    *,
    tokens: int,
    calibration: int,
    store: Store,
    progress: Progress,
) -> EvaluationText:
    """Read the documents of a recipe, and cut them into windows with the model's own tokenizer.

    Args:
        recipe: Names the documents.
        source: The unquantized model.
        runtime: Has its tokenizer and its chat template.
        tokens: To score at most, where the recipe does not say.
        calibration: Windows to calibrate with.
        store: Where the latter are kept, for passes to read.
        progress: Receives two steps of a stage that has begun.

    Raises:
        UserError: When the text cannot be read, or is too little.
    """
    documents = prepare_documents(recipe.data, Path())
    progress.step(
        f"{len(documents.calibration)} documents to calibrate with, {len(documents.evaluation)} others to evaluate with"
    )
    context = runtime.context
    with LanguageProcess(runtime, source) as process:
        evaluation = in_turn(rendered(documents.evaluation, process.render))
        windows = windows_of(recipe, evaluation, process, context, tokens)
        choices = _choice_windows(recipe, process.tokenize, context)
        kept = _calibration(documents, process, min(_CALIBRATION_LENGTH, context), calibration, store)
    progress.step(f"{windows.count:,} tokens to score, {kept.count * kept.length:,} to calibrate with")
    return EvaluationText(
        windows=windows,
        choices=choices,
        calibration=kept,
        golden=tuple(document.text[:600] for document in evaluation[:_GOLDEN]),
        digest=documents.digest,
        description=_description(documents, windows.count, kept),
    )


def windows_of(
    recipe: Recipe, documents: Sequence[Document], process: LanguageProcess, context: int, tokens: int
) -> ScoredWindows:
    """Cut documents into the windows that a recipe asks for.

    Args:
        recipe: Says how long they are, how far apart, and how many tokens are scored.
        documents: In the order in which they have a say; see :func:`in_turn`.
        process: Has the tokenizer.
        context: Tokens that a window may have.
        tokens: To score at most, where the recipe does not say.
    """
    options = recipe.language
    length = min(options.window, context)
    return scored_windows(
        documents,
        process.tokenize,
        length=length,
        stride=min(options.stride or length * 7 // 8, length - 1),
        most_tokens=options.tokens or tokens,
    )


def reference_runtime(format_name: str, threads: int, context: int) -> LanguageRuntime:
    """Return what computes the reference: the source's numbers in the highest precision."""
    if format_name == "gguf":
        return LlamaCpp(threads=threads, context=context)
    return Transformers(threads=threads, context=context)


def in_turn(documents: Sequence[Document]) -> list[Document]:
    """The first piece of each document, then the second ones: the more documents have a say, the better they bound."""
    seen: collections.Counter[str] = collections.Counter()
    ranks = []
    for document in documents:
        ranks.append(seen[document.group])
        seen[document.group] += 1
    return [document for _, document in sorted(zip(ranks, documents, strict=True), key=lambda pair: pair[0])]


def _description(documents: Documents, tokens: int, calibration: TokenWindows) -> dict[str, Any]:
    return {
        **documents.description,
        "scored_tokens": tokens,
        "calibration_tokens": calibration.count * calibration.length,
    }


def _calibration(documents: Documents, process: LanguageProcess, length: int, count: int, store: Store) -> TokenWindows:
    """Windows to calibrate with, in the store: passes read them from there."""
    texts = rendered(documents.calibration, process.render)
    windows = calibration_windows(texts, process.tokenize, length=length, count=count)
    key = {"windows": digest([[int(token) for token in window] for window in windows]), "code": code_digest()}
    folder = store.get("language-windows", key, functools.partial(_write_windows, windows=windows))
    return TokenWindows.at(folder)


def _write_windows(folder: Path, windows: npt.NDArray[np.int32]) -> None:
    write_windows(folder, windows)


def _prompts(windows: Sequence[npt.NDArray[np.int64]], length: int) -> list[npt.NDArray[np.int64]]:
    """Beginnings of windows, one of each, of one length."""
    return [window[:length] for window in windows if len(window) >= length]


def answer_task(model: Model, windows: Sequence[npt.NDArray[np.int64]], context: int, store: Store) -> AnswerTask:
    """Return what every model is asked that is compared with ``model``.

    Args:
        model: The one that others are compared with.
        windows: Of text, to score.
        context: Tokens of prompt and answer together.
        store: Where answers are kept.
    """
    folder = model.folder if model.format == "huggingface" else None
    checkpoint = open_checkpoint(folder) if folder else None
    length = min(_PROMPT, context // 2)
    return AnswerTask(
        windows=windows,
        prompts=_prompts(windows, length)[:_PROMPTS] or [windows[0][:length]],
        answer=min(_ANSWER, context - length),
        top=min(_TOP, checkpoint.vocabulary) if checkpoint else _TOP,
        special=special_texts(folder)[:_MOST_SPECIAL] if folder else (),
        bos=_start_token(checkpoint) if checkpoint else None,
        stops=stop_tokens(folder) if folder else (),
        isa=detect().isa,
        store=store,
    )


def speed_prompts(
    recipe: Recipe, windows: Sequence[npt.NDArray[np.int64]], context: int
) -> tuple[list[npt.NDArray[np.int64]], int]:
    """Return prompts of one length, and the tokens of an answer, that speed is measured with."""
    import numpy as np

    answer = min(recipe.language.answer, context // 2)
    length = min(recipe.language.prompt, context - answer)
    prompts = _prompts(windows, length) or [np.resize(np.concatenate(list(windows)), length)]
    return prompts, answer


def _choice_windows(recipe: Recipe, tokenize: Callable[[str], list[int]], context: int) -> ChoiceWindows | None:
    """The user's questions, where there are any."""
    if not recipe.language.choices:
        return None
    path = Path(recipe.language.choices)
    items = read_lm_eval_task(path) if is_lm_eval_task(path) else read_choices(path)
    return choice_windows(items, tokenize, context=context)


def _start_token(checkpoint: Checkpoint) -> int | None:
    """The start token's number, where the configuration says one."""
    token, settings = checkpoint.text_config.get("bos_token_id"), _settings(checkpoint.folder)
    return token if isinstance(token, int) and settings.get("add_bos_token", True) is not False else None


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
