"""What every search space of language models is given, and gives."""

from __future__ import annotations

__all__ = ["LanguageSpace", "LanguageSpaceInputs"]

import abc
import dataclasses
from collections.abc import Iterator, Sequence

from mopt.artifacts.serving.language._base import LanguageServing
from mopt.model.tokens import TokenWindows
from mopt.recipe import Language
from mopt.search.language.trial import LanguageCandidate


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageSpaceInputs:
    """What candidates are made from.

    Attributes:
        format: Of the source: ``huggingface`` or ``gguf``.
        architecture: Class of transformers.
        windows: Real text in tokens, to calibrate with.
        threads: For one inference.
        context: Tokens of prompt and answer together.
        options: What the recipe says of language models.
        systems: Serving systems that were named.
        isa: Instruction sets of the target.
        chat: Whether there is a chat template.
        mixes: Layers of several widths: average bits of a weight, and name, bits and group size of each layer.
    """

    format: str
    architecture: str
    windows: TokenWindows
    threads: int
    context: int
    options: Language
    systems: Sequence[LanguageServing]
    isa: Sequence[str]
    chat: bool
    mixes: Sequence[tuple[float, tuple[tuple[str, int, int], ...]]] = ()


class LanguageSpace(abc.ABC):
    """The candidates of one runtime."""

    @abc.abstractmethod
    def candidates(self, inputs: LanguageSpaceInputs) -> Iterator[LanguageCandidate]:
        """Yield them, the unquantized one first; none for a format that it does not start from."""
