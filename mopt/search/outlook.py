"""How long the rest of a search will take, from what was measured of it so far.

A build spends its time in few kinds of work: compiling a candidate, running one over samples, letting sessions take turns. Each
estimate here is their number times what one took; how many candidates drop out on the way is not known before, and guessed.
"""

from __future__ import annotations

__all__ = [
    "COMPILING",
    "QUALITY",
    "SCREENING",
    "SHORTLIST_STAGE",
    "Pace",
    "expected_by_effort",
    "expected_from_start",
    "expected_mixed_precision",
    "expected_quality",
    "expected_shortlist",
    "mixed_precision_stage",
]

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Self

from mopt.profiles.measure import TURN_SECONDS
from mopt.recipe import EffortName
from mopt.search.effort import EFFORTS, Effort

COMPILING = "compiling"
SCREENING = "screening the speed"
QUALITY = "checking quality"
SHORTLIST_STAGE = "measuring the shortlist"

_OPENING = 0.15
"""Seconds until a process has loaded a small model and answered."""
_START = 0.45
"""Seconds until the first process of all has answered."""
_PASSES = 0.35
"""Seconds of a candidate's passes on top of running the calibration samples."""
_SCREENED_TURNS = 8
"""Turns of a candidate while it is screened, warm-up included."""
_SURVIVORS = 0.6
"""Share of the candidates that screening leaves; sometimes it leaves hardly any, so a shortlist has one less than it may."""
_CALIBRATING = 0.8
"""Times of running the calibration samples that compiling a candidate takes, those that need none among them."""
_SAMPLE_OVERHEAD = 0.0005
"""Seconds of a sample for reading it, and for scoring the answer."""
_BESIDES = 4.0
"""Seconds of a build for the busy machine, the operators, and the artifact."""
_WARM_UP_TURNS = 4
_FEWEST_ROUNDS = 5
_LONGEST_TURN = 0.15
_RIVALS = 2
"""Sessions that go on after the first batch size: the reference and the one that is likely to win."""
_LOOKED_AT = 1.5
"""Times the shortlist that are looked at, since some are wrong; and the variants of the first of them."""
_SLOWEST = 3.0
_VARIANTS = 3
"""Trials that mixed precision takes for a candidate: most end when a variant gains nothing any more."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """What running the reference over the samples has told.

    Attributes:
        seconds: That it took, a process and loading included.
        few_seconds: That running it over a few of them took, in another process.
        samples: How many there are.
        few: How many of them are a first look.
        calibration: Samples that a quantizing pass runs.
        slowness: Times as long as on a quiet machine that starting processes and taking turns takes.
    """

    seconds: float
    few_seconds: float
    samples: int
    few: int
    calibration: int
    slowness: float = 1.0

    @classmethod
    def from_sample(cls, seconds: float, samples: int, few: int, calibration: int) -> Self:
        """Return the pace of a model of which no more is known than what a sample takes."""
        each = seconds + _SAMPLE_OVERHEAD
        return cls(_OPENING + each * samples, _OPENING + each * min(few, samples), samples, few, calibration)

    @property
    def sample(self) -> float:
        """Seconds of a sample: what the samples took that were run once more than the few, so that no process start counts."""
        more = self.samples - self.few
        if more > 0:
            return max(0.0, self.seconds - self.few_seconds) / more
        return max(0.0, min(self.seconds, self.few_seconds) - _OPENING) / max(1, self.samples)

    @property
    def start_slowness(self) -> float:
        """How much slower than on a quiet machine a process started, less the part that only starting suffers from."""
        start = self.few_seconds - min(self.few, self.samples) * self.sample
        return math.sqrt(max(0.0, start) / _START)

    def slowed(self, factor: float) -> Pace:
        """The same on a machine on which what takes no samples takes ``factor`` times as long as on a quiet one."""
        return dataclasses.replace(self, slowness=min(max(1.0, factor), _SLOWEST))

    def quality(self, samples: int) -> float:
        """Seconds of a look at the quality of one candidate."""
        return _OPENING * self.slowness + self.sample * samples


def expected_from_start(
    pace: Pace, candidates: int, *, effort: Effort, sizes: Sequence[int], screening_batch: int
) -> dict[str, float]:
    """Return the seconds of each stage by its title, before anything was compiled.

    Args:
        pace: Of the reference.
        candidates: That will be tried.
        effort: How many are measured in depth, and how long.
        sizes: Batch sizes of that.
        screening_batch: Batch size at which all are screened.
    """
    survivors = max(1, round(_SURVIVORS * candidates))
    turn = max(TURN_SECONDS, pace.sample * screening_batch)
    return {
        COMPILING: candidates * (_PASSES * pace.slowness + _CALIBRATING * pace.calibration * pace.sample),
        SCREENING: (1 + candidates) * (_OPENING * pace.slowness + _SCREENED_TURNS * turn),
        QUALITY: expected_quality(pace, survivors, 0, effort.shortlist),
        SHORTLIST_STAGE: expected_shortlist(pace.sample, min(effort.shortlist - 1, survivors), sizes, effort),
    }


def expected_by_effort(
    sample_seconds: float,
    candidates: Mapping[EffortName, int],
    *,
    samples: int,
    few: int,
    calibration: int,
    sizes: Mapping[EffortName, Sequence[int]],
    screening_batch: int,
) -> dict[EffortName, float]:
    """Return the seconds of a search at each effort.

    Args:
        sample_seconds: Of one sample in the reference.
        candidates: How many each effort would try.
        samples: To evaluate with.
        few: Of a first look.
        calibration: To take ranges from.
        sizes: Batch sizes that each effort may measure.
        screening_batch: Batch size at which all are screened.
    """
    expected: dict[EffortName, float] = {}
    for name, count in candidates.items():
        effort = EFFORTS[name]
        pace = Pace.from_sample(sample_seconds, min(samples, effort.evaluation), few, min(calibration, effort.calibration))
        stages = expected_from_start(pace, count, effort=effort, sizes=sizes[name], screening_batch=screening_batch)
        expected[name] = _BESIDES + pace.seconds + sum(stages.values())
    return expected


def expected_quality(pace: Pace, alive: int, variants: int, shortlist: int) -> float:
    """Return the seconds of judging candidates in the order of their speed until a shortlist is full.

    Args:
        pace: Of the reference.
        alive: Candidates that screening has left.
        variants: Candidates that are compiled and looked at with the first of them.
        shortlist: Most that are looked for.
    """
    looked_at = min(alive, _LOOKED_AT * shortlist) + (variants if alive else 0)
    early = pace.quality(min(pace.few, pace.samples)) if pace.few < pace.samples else 0.0
    judged = min(alive, shortlist) * pace.quality(pace.samples) if early else looked_at * pace.quality(pace.samples)
    return looked_at * early + judged + (variants if alive else 0) * _PASSES * pace.slowness


def expected_shortlist(latency: float, candidates: int, sizes: Sequence[int], effort: Effort) -> float:
    """Return the seconds of measuring candidates in depth, beside the reference and its control.

    Args:
        latency: Seconds of the reference at batch 1.
        candidates: On the shortlist.
        sizes: Batch sizes.
        effort: How long each of them may take, and all together.
    """
    sessions, more = candidates + 2, 0.0
    for batch in sizes:
        each = max(min(_LONGEST_TURN, max(TURN_SECONDS, 20 * latency * batch)), latency * batch)
        turn = (sessions if batch == sizes[0] else _RIVALS) * each
        rounds = max(_FEWEST_ROUNDS * turn, min(effort.rounds * turn, effort.size_seconds))
        if batch == sizes[0]:
            first = _WARM_UP_TURNS * turn + rounds
        elif more + _WARM_UP_TURNS * turn + rounds <= effort.sizes_seconds:
            more += _WARM_UP_TURNS * turn + rounds
    return first + more + sessions * _OPENING


def mixed_precision_stage(candidate: str) -> str:
    """Return the title of the stage that leaves operators of a candidate in float."""
    return f"mixed precision for {candidate}"


def expected_mixed_precision(compile_seconds: float, pace: Pace) -> float:
    """Return the seconds of mixed precision for one candidate that took ``compile_seconds`` to compile."""
    screening = 2 * (_OPENING + _SCREENED_TURNS * TURN_SECONDS)
    return _VARIANTS * (compile_seconds + screening + pace.quality(pace.few) + pace.quality(pace.samples))
