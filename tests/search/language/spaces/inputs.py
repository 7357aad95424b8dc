"""What spaces are given in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mopt.model.tokens import write_windows
from mopt.recipe import Language
from mopt.search.language.spaces._base import LanguageSpaceInputs


def space_inputs(folder: Path, **changes: object) -> LanguageSpaceInputs:
    fields = {
        "format": "huggingface", "architecture": "LlamaForCausalLM", "threads": 2, "context": 512, "options": Language(),
        "windows": write_windows(folder, np.zeros((2, 8), np.int32)), "systems": [], "isa": ("avx2",), "chat": True,
    }  # fmt: skip
    return LanguageSpaceInputs(**(fields | changes))  # type: ignore[arg-type]
