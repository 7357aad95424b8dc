"""The records that a build of a language model leaves; ``manifest.json`` of such an artifact is :class:`LanguageManifest`."""

from __future__ import annotations

__all__ = [
    "Conversation",
    "GenerationSpeed",
    "GoldenText",
    "LanguageGolden",
    "LanguageManifest",
    "LanguageSource",
    "LanguageTrial",
    "Outlay",
    "ScoredText",
]

from typing import Literal

from mopt.records._base import Record
from mopt.records.divergence import Divergence, GenerationCheck
from mopt.records.manifest import BaseManifest
from mopt.records.measurement import Estimate
from mopt.records.quality import Quality
from mopt.records.trial import TrialRecord


class GenerationSpeed(Record):
    """How fast a candidate answers one request at a time, measured in turns with the others."""

    prompt_tokens: int
    answer_tokens: int
    prefill: Estimate
    """Tokens of the prompt per second, from the request to the first token of the answer."""
    decode: Estimate
    """Tokens of the answer per second, after the first."""
    prefill_ratio: Estimate | None = None
    """Speed-up of the prefill over the baseline in the same rounds; None for the baseline."""
    decode_ratio: Estimate | None = None
    """The same for the tokens of the answer."""
    disturbed: bool = False
    """Whether other work ran beside too many turns, so that nothing about the speed is proven."""


class ScoredText(Record):
    """What a model makes of the evaluation text."""

    tokens: int
    """That were scored, each once."""
    window: int
    stride: int
    log_loss: float
    """Nats per token."""
    perplexity: float
    bits_per_byte: float
    divergence: Divergence | None = None
    """From the reference, token by token; None for the reference itself."""


class LanguageTrial(TrialRecord):
    """A candidate with what was measured of it, in the runtime that will serve."""

    method: str = ""
    """How the checkpoint says that it is quantized; see :mod:`mopt.artifacts.serving.language._base`."""
    detail: str = ""
    """The scheme in words, such as ``int4, groups of 128``."""
    bits_per_weight: float | None = None
    """All bits of the file's tensors over all parameters, embeddings included."""
    text: ScoredText | None = None
    choices: Quality | None = None
    """Questions with choices of the user's file, against the reference."""
    generation: GenerationCheck | None = None
    """Whether it still writes as the reference does."""
    speed: GenerationSpeed | None = None
    load_seconds: float | None = None
    judging_seconds: float | None = None
    """For loading it, scoring the text and letting it write, when that was done."""
    peak_bytes: int | None = None
    remarks: tuple[str, ...] = ()
    """What people should know of it, although it holds."""
    problems: tuple[str, ...] = ()
    """What is wrong with its files: weights that are not what was quantized, a tokenizer or a template of another model."""


class LanguageSource(Record):
    """What was built from."""

    source: str
    digest: str
    format: str
    architecture: str
    parameters: int
    size_bytes: int
    vocabulary: int
    positions: int
    licence: str = ""
    chat: bool
    """Whether it has a chat template."""
    note: str = ""
    """What people must know of it, such as that it is quantized already."""


class Outlay(Record):
    """What a build takes of its machine: as it was expected before, or as it was."""

    memory_bytes: int
    """Resident memory of the largest process."""
    seconds: float
    passes_seconds: float
    """The part of them in which passes make candidates."""
    disk_bytes: int
    """Of what passes leave in the cache."""


class GoldenText(Record):
    """A text, what the served tokenizer makes of it, and what the served model makes of that."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural logarithm of the probability of each token but the first."""
    greedy: tuple[int, ...] = ()
    """What it is continued with."""


class Conversation(Record):
    """A chat, and the prompt that it becomes."""

    messages: tuple[dict[str, str], ...]
    prompt: str


class LanguageGolden(Record):
    """What the shipped model answers, for ``mopt verify``."""

    texts: tuple[GoldenText, ...]
    conversations: tuple[Conversation, ...]
    tolerance: float
    """Largest absolute difference of a logarithm that another machine may show."""


class LanguageManifest(BaseManifest):
    """Everything that is needed to explain an artifact of a language model and to build it again.

    The reference is the unquantized model in FP32.
    """

    kind: Literal["language"] = "language"
    deployable: bool = True
    trials: tuple[LanguageTrial, ...]
    source: LanguageSource
    expected: Outlay | None = None
    """What was said before it began."""
    taken: Outlay | None = None
    """What it took; None where the cache had a part of it."""
    context: int
    baseline: str
    """The unquantized candidate that speeds are compared with."""
    golden: LanguageGolden

    @property
    def winner(self) -> LanguageTrial:
        """The trial that is shipped."""
        return next(trial for trial in self.trials if trial.name == self.chosen)

    @property
    def reference(self) -> LanguageTrial:
        """The trial that the quality of all others is compared with."""
        return self.trials[0]
