"""What lies beside a GGUF, which holds tokenizer and chat template itself: licence, model card, generation settings."""

from __future__ import annotations

__all__ = ["copy_gguf_companions"]

import fnmatch
import shutil
from pathlib import Path

_NAMES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "README.md", "generation_config.json")


def copy_gguf_companions(source: Path, target: Path) -> list[str]:
    """Copy them from the folder of a checkpoint, or of another GGUF; return the names."""
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    copied = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in _NAMES)]
    for name in copied:
        shutil.copyfile(source / name, target / name)
    return copied
