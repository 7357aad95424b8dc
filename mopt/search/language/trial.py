"""What is searched for a language model: candidates, and trials in the making."""

from __future__ import annotations

__all__ = ["LanguageCandidate", "LanguageTrialInMaking", "new_language_trial"]

import dataclasses
from collections.abc import Sequence

from mopt.errors import CandidateRejectedError, MissingDependencyError, Rejection
from mopt.evaluators.language.generation import Written
from mopt.model.files import Model
from mopt.passes._base import Pass
from mopt.recipe import EffortName
from mopt.records.language import LanguageTrial
from mopt.records.trial import Outcome
from mopt.runtimes.language._base import LanguageRuntime
from mopt.system.digests import describe_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageCandidate:
    """Passes and the runtime that executes what they make.

    Attributes:
        name: What reports call it.
        passes: From the format of the source to one that the runtime loads.
        runtime: In which it is judged, and served.
        method: How its checkpoint says that it is quantized; see :mod:`mopt.artifacts.serving.language._base`.
        detail: The scheme in words.
        unquantized: Whether it holds the source's numbers as they are.
        scored_passes: What is scored in the place of what ``passes`` make, because the runtime does not load that packing: the
            same numbers in another one. None where the runtime loads what is shipped.
        effort: The least effort at which it is tried.
        refused: Why it is not tried at all.
    """

    name: str
    passes: tuple[Pass, ...]
    runtime: LanguageRuntime
    method: str
    detail: str = ""
    unquantized: bool = False
    scored_passes: tuple[Pass, ...] | None = None
    effort: EffortName = "quick"
    refused: Outcome | None = None

    def check(self, source_format: str) -> None:
        """Follow the format of the model from the source to the runtime.

        Raises:
            ValueError: When a pass does not read what the one before it makes, or the runtime not what the last one makes.
        """
        for steps, loads in (
            (self.passes, self.scored_passes is None),
            (self.scored_passes or (), self.scored_passes is not None),
        ):
            format_name = source_format
            for step in steps:
                if step.takes != format_name:
                    raise ValueError(f"{self.name}: {step.name} reads {step.takes}, and not {format_name}")
                format_name = step.makes
            if loads and format_name not in self.runtime.formats:
                raise ValueError(f"{self.name}: {self.runtime.name} does not load {format_name}")


@dataclasses.dataclass(frozen=True)
class LanguageTrialInMaking:
    """A trial in the making.

    Attributes:
        record: What is known so far.
        candidate: What is tried.
        model: What its passes made: what would be shipped.
        scored: What the runtime loads: the same, or the same numbers in another packing.
        look: Tokens of an answer per second, as they were when its quality was judged, beside nothing else.
        written: What it continues prompts with.
    """

    record: LanguageTrial
    candidate: LanguageCandidate
    model: Model | None = None
    scored: Model | None = None
    look: float = 0.0
    written: Sequence[Written] = ()

    def reject(self, rejection: Rejection, reason: str) -> LanguageTrialInMaking:
        """The same, out of the race."""
        return self.update(outcome=Outcome(rejection=rejection, reason=" ".join(reason.split())))

    def reject_failed(self, error: CandidateRejectedError | MissingDependencyError) -> LanguageTrialInMaking:
        """The same, out of the race for what its process raised."""
        if isinstance(error, MissingDependencyError):
            return self.reject(Rejection.SKIPPED, f"{error.message}; {error.hint}")
        return self.reject(error.rejection, error.message)

    def update(self, **fields: object) -> LanguageTrialInMaking:
        """The same, with more measured."""
        return dataclasses.replace(self, record=self.record.model_copy(update=fields))

    @property
    def alive(self) -> bool:
        """Whether nothing has rejected it so far."""
        return self.record.outcome is None


def new_language_trial(candidate: LanguageCandidate) -> LanguageTrialInMaking:
    """Return the trial of a candidate of which nothing is known yet; one that is refused is out already."""
    record = LanguageTrial(
        name=candidate.name,
        runtime=candidate.runtime.name,
        runtime_fields=describe_fields(candidate.runtime),
        method=candidate.method,
        detail=candidate.detail,
        outcome=candidate.refused,
    )
    return LanguageTrialInMaking(record, candidate)
