"""What the files of a Hugging Face folder say besides the model: its tokenizer, its image processor, its classes."""

from __future__ import annotations

__all__ = ["folder_defaults"]

import json
import re
from pathlib import Path
from typing import Any

from mopt.datasets.spec import ImageSpec, SourceDefaults, TextSpec
from mopt.exporters._image_preprocessing import from_processor

TOKENIZER = "tokenizer.json"
_CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification")
_REGRESSION_METRIC = "mse"
"""What transformers trains with where a model gives one number."""
_MOST_TOKENS = 512
"""Tokens that are kept when the folder sets no limit; an unlimited tokenizer says 1e30."""
_GENERIC = re.compile(r"LABEL_\d+")
_OLD_VOCABULARIES = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def folder_defaults(folder: Path) -> SourceDefaults:
    """Return what ``folder`` brings; a file that is missing or damaged brings nothing."""
    config = _read(folder / "config.json")
    image = _image(folder)
    left_out = [image] if isinstance(image, str) else []
    if not (folder / TOKENIZER).is_file() and any((folder / name).is_file() for name in _OLD_VOCABULARIES):
        left_out.append(f"its vocabulary is no {TOKENIZER}: AutoTokenizer.from_pretrained and save_pretrained write one")
    architecture = str((config.get("architectures") or [""])[0])
    classes = _classes(config) if architecture.endswith(_CLASSIFIERS) else ()
    names = config.get("id2label")
    regresses = config.get("problem_type") == "regression" or (isinstance(names, dict) and len(names) == 1)
    return SourceDefaults(
        text=_text(folder, config),
        image=image if isinstance(image, ImageSpec) else None,
        classes=() if regresses else classes,
        metric=_REGRESSION_METRIC if regresses and architecture.endswith(_CLASSIFIERS) else "",
        left_out="; ".join(left_out),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _text(folder: Path, config: dict[str, Any]) -> TextSpec | None:
    if not (folder / TOKENIZER).is_file():
        return None
    limits = [
        _read(folder / "tokenizer_config.json").get("model_max_length"),
        _read(folder / "sentence_bert_config.json").get("max_seq_length"),
        _positions(config),
        _MOST_TOKENS,
    ]
    length = min(int(limit) for limit in limits if isinstance(limit, int | float) and limit >= 1)
    return TextSpec(tokenizer=TOKENIZER, max_length=length, padding="longest")


def _positions(config: dict[str, Any]) -> int | None:
    """Return how many tokens have a position; RoBERTa and its kin number them from behind the padding."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    offset = int(config.get("pad_token_id") or 0) + 1 if re.search("roberta|camembert", str(config.get("model_type"))) else 0
    return positions - offset


def _image(folder: Path) -> ImageSpec | str | None:
    config = _read(folder / "preprocessor_config.json")
    if not config:
        config = _read(folder / "processor_config.json").get("image_processor") or {}
    if not ({"image_processor_type", "image_mean", "size"} & set(config)):
        return None
    try:
        return from_processor(config)
    except (KeyError, TypeError, ValueError, IndexError):
        return "its image processor cannot be read, so write [data.image] yourself"


def _classes(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes in order; nothing where they are only numbered."""
    names = config.get("id2label")
    if not isinstance(names, dict):
        return ()
    try:
        ordered = [str(names[key]) for key in sorted(names, key=int)]
    except (ValueError, TypeError):
        return ()
    numbered = [int(key) for key in sorted(names, key=int)] == list(range(len(names)))
    return tuple(ordered) if numbered and not all(map(_GENERIC.fullmatch, ordered)) else ()
