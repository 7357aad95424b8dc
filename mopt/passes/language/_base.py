"""What every pass of language models is: it runs in an environment of ``mopt tools``, block by block."""

from __future__ import annotations

__all__ = ["LanguagePass"]

import dataclasses
from typing import ClassVar

from mopt.passes._base import FilePass


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguagePass(FilePass):
    """Checkpoint in, checkpoint out."""

    takes: ClassVar[str] = "huggingface"
    makes: ClassVar[str] = "quantized"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "compressed-tensors", "llmcompressor")
    tools: ClassVar[str] = "llm_compressor"
    modules: ClassVar[tuple[str, ...]] = ()
    timeout: ClassVar[float] = 86400.0
