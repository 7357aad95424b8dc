"""The sketch that a build writes: which samples it is of, and how many of them the model is run on."""

from __future__ import annotations

__all__ = ["class_scores", "sketch_samples"]

import itertools
from collections.abc import Iterator

from mopt.datasets.split import Split
from mopt.evaluators.inference import run_all
from mopt.model.samples import Samples
from mopt.model.signature import Feed, Signature
from mopt.records.sketch import Sketch
from mopt.records.trial import TrialRecord
from mopt.records.units import is_share
from mopt.runtimes._base import SessionProcess
from mopt.sketches.features import Extractor, frequent_values
from mopt.sketches.sketch import make_sketch

_MOST_SAMPLES = 1000
"""More would make the sketch little finer, and a build slower."""
_MOST_SECONDS = 3.0
_FEWEST_OUTPUTS = 20
_VOCABULARY_SHARE = 4
"""One in so many of the samples to calibrate with says which whole numbers are usual, and is counted nowhere else: how usual a
sample is of which one was told would be flattery."""


def sketch_samples(split: Split, signature: Signature, session: SessionProcess | None, trial: TrialRecord) -> Sketch | None:
    """Return the sketch of the samples of a build; None for made-up ones.

    Args:
        split: The samples.
        signature: Of the model.
        session: The model that is shipped; None where it cannot run here, and there is no sketch of its outputs then.
        trial: Of that model.
    """
    if split.calibration.synthetic:
        return None
    apart = len(split.calibration) // _VOCABULARY_SHARE
    vocabularies = frequent_values(signature, (split.calibration[index] for index in range(apart)))
    extractor = Extractor(signature, class_scores(signature, trial), vocabularies)
    feeds = itertools.islice(_independent(split, apart), _MOST_SAMPLES)
    inputs = [extractor.inputs(feed) for feed in feeds]
    if session is None:
        return make_sketch(extractor, inputs, [])
    again = itertools.islice(_independent(split, apart), _affordable(trial))
    outputs = [extractor.outputs(output) for output in run_all(session, signature, again, finite=False)]
    return make_sketch(extractor, inputs, outputs)


def class_scores(signature: Signature, trial: TrialRecord) -> tuple[str, ...]:
    """Return the outputs that hold a score for each class: of a model that is judged by how often its answer is right."""
    if trial.quality is None or not is_share(trial.quality.metric):
        return ()
    return tuple(
        spec.name
        for spec in signature.outputs
        if spec.dtype.startswith(("float", "bfloat")) and len(spec.shape) == 2 and _is_several(spec.shape[1])
    )


def _is_several(size: int | str) -> bool:
    return isinstance(size, int) and size > 1


def _affordable(trial: TrialRecord) -> int:
    """Samples that the model answers in :data:`_MOST_SECONDS`, by its profile."""
    if trial.profile is None:
        return _FEWEST_OUTPUTS
    each_ms = max(1e-3, trial.profile.batches[0].p50.value)
    return max(_FEWEST_OUTPUTS, min(_MOST_SAMPLES, int(_MOST_SECONDS * 1e3 / each_ms)))


def _independent(split: Split, start: int) -> Iterator[Feed]:
    """Yield samples that are independent draws: one of each group.

    The samples to evaluate with come first. Where some were left out, because the samples to calibrate with have the same
    content, what is left is no random sample any more, and only the latter are taken.
    """
    biased = split.description.get("left_out_as_duplicates", 0)
    sides = [] if biased else [(split.evaluation, 0)]
    for samples, begin in (*sides, (split.calibration, start)):
        yield from _one_of_each_group(samples, begin)


def _one_of_each_group(samples: Samples, begin: int) -> Iterator[Feed]:
    groups, seen = samples.groups, set()
    for index in range(begin, len(samples)):
        if groups is None or groups[index] not in seen:
            seen.add(groups[index] if groups else "")
            yield samples[index]
