"""What the serving systems that load a GGUF share: what llama.cpp knows, and whether the file is what was promised."""

from __future__ import annotations

__all__ = ["cache_type", "check_gguf", "refused_gguf"]

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopt.artifacts.serving.language._base import ServedLanguageModel
from mopt.errors import UserError
from mopt.model.formats import model_format
from mopt.model.gguf import open_gguf
from mopt.records.serving import Proof

_TABLE = Path(__file__).parent / "_llama_cpp_capabilities.json"
"""Written by ``ci/llama_cpp_capabilities.py`` from the code of converter and library."""
_CACHES = {"": "f16", "int8": "q8_0"}
"""Types that llama.cpp keeps keys and values in, for what a checkpoint asks for."""


@functools.cache
def _table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(_TABLE.read_text(encoding="utf-8"))
    return table


def refused_gguf(served: ServedLanguageModel) -> str:
    """Return why llama.cpp does not run a model; nothing when it does. Its architecture is transformers' or llama.cpp's."""
    known: Mapping[str, str] = _table()["architectures"]
    if served.architecture not in known and served.architecture not in known.values():
        return f"llama.cpp does not know {served.architecture} ({_table()['source']})"
    if served.kv_cache not in _CACHES:
        return f"llama.cpp keeps keys and values in f16 or q8_0, not {served.kv_cache}"
    return ""


def cache_type(served: ServedLanguageModel) -> str:
    """Return what ``--cache-type-k`` and ``--cache-type-v`` are."""
    return _CACHES[served.kv_cache]


def check_gguf(model_folder: Path, served: ServedLanguageModel) -> Proof:
    """Read the header: whether every tensor lies in the file, and vocabulary and chat template are there."""
    part = model_format("gguf").main_file
    try:
        gguf = open_gguf(model_folder / part)
    except UserError as error:
        return Proof(part=part, state="failed", detail=error.message)
    missing = [
        *(["it has no vocabulary"] if not gguf.tokens else []),
        *(["its chat template is lost"] if served.chat and not gguf.chat_template else []),
        *([f"it was made for {gguf.context} tokens, not {served.context}"] if 0 < gguf.context < served.context else []),
    ]
    detail = (
        f"{gguf.file_type}, {gguf.bits_per_weight:.2f} bits a weight, {len(gguf.tensors)} tensors, {len(gguf.tokens)} tokens"
    )
    return Proof(part=part, state="failed" if missing else "proven", detail="; ".join(missing) or detail)
