"""The final: of the best candidates, measured in depth, the one to ship."""

from __future__ import annotations

__all__ = [
    "SearchResult",
    "alike",
    "break_ties",
    "estimated_objective",
    "nothing_to_serve",
    "output_sqnr_db",
    "rank_by_estimate",
    "rank_improvements",
    "select_best",
]

import dataclasses
import statistics
from collections.abc import Collection, Sequence

from mopt.errors import Rejection, UserError
from mopt.model.files import Model
from mopt.progress import Progress
from mopt.records.measurement import Estimate, Profile
from mopt.records.trial import TrialRecord
from mopt.search.memory import memory_groups
from mopt.search.shortlist import indistinguishable, measure_shortlist
from mopt.search.task import SpeedTask
from mopt.search.trial import Candidate, Trial, inconclusive_text, proof_text, speedup_text

_ALIKE = 0.95
"""Share of the best speed-up from which on screening sees no difference."""
_SAME_SQNR_DB = 3.0
"""dB of the distance to the reference that do not matter."""


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The answer: all trials (the reference first), the chosen one, why, and how far the control was from 1."""

    trials: tuple[TrialRecord, ...]
    chosen: TrialRecord
    model: Model
    candidate: Candidate
    why: str
    control: Estimate | None


def select_best(
    task: SpeedTask, reference: Trial, trials: list[Trial], finalists: Collection[str], progress: Progress
) -> SearchResult:
    """Measure the shortlist in depth beside the reference, and take the best that is faster.

    Args:
        task: With the objective.
        reference: The trial of the reference.
        trials: Of all candidates.
        finalists: Names of those that hold on all samples.
        progress: Receives the batch sizes.
    """
    ranked = rank_by_estimate(task, [trial for trial in trials if trial.record.name in finalists])
    shortlist = next(iter(memory_groups(task.memory, reference, ranked[: task.effort.shortlist])), [])
    shortlisted = {trial.record.name for trial in shortlist}
    rest = [trial for trial in trials if trial.alive and trial.record.name not in shortlisted]
    measured, control = measure_shortlist(task, reference, shortlist, progress)
    reference, shortlist = measured[0], [trial for trial in measured[1:] if trial.alive]
    winner, equals = break_ties(task, rank_improvements(task, shortlist, reference, control), reference)
    if winner is reference and not task.ships_reference:
        raise nothing_to_serve(trials)
    finished = {
        trial.record.name: _reject_loser(task, trial, winner, reference, control)
        for trial in [*shortlist, *rest]
        if trial is not winner
    }
    finished |= {trial.record.name: trial for trial in measured[1:] if not trial.alive}
    outcomes = [reference, *(finished.get(trial.record.name, trial) for trial in trials)]
    if winner is not reference:
        outcomes = [winner if trial.record.name == winner.record.name else trial for trial in outcomes]
    assert winner.model is not None
    return SearchResult(
        trials=tuple(trial.record for trial in outcomes),
        chosen=winner.record,
        model=winner.model,
        candidate=winner.candidate,
        why=_why(task, winner, reference, equals),
        control=control,
    )


def nothing_to_serve(trials: Sequence[Trial]) -> UserError:
    """None of what the named serving systems run is right; the reference, which is, they do not run."""
    failed = [trial for trial in trials if trial.record.outcome]
    tried = [trial for trial in failed if trial.candidate.refused is None]  # of the others everybody knew before
    reasons = [f"{trial.record.name}: {trial.record.outcome.reason}" for trial in tried or failed if trial.record.outcome][:3]
    return UserError(
        f"no candidate that the serving system runs is right: {'; '.join(reasons) or 'there is none'}",
        "allow more with --tolerance, or name a serving system that runs ONNX Runtime",
    )


def rank_improvements(task: SpeedTask, shortlist: Sequence[Trial], reference: Trial, control: Estimate) -> list[Trial]:
    """Those of the shortlist that may be shipped instead of the reference, the best first.

    They are surely faster, and for the objective ``size`` they have fewer bytes too: a model that is as large is no answer
    to it, however the clock prefers it.

    Args:
        task: With the objective.
        shortlist: What was measured in depth.
        reference: The trial of the reference.
        control: How fast the reference came out beside itself.
    """
    better = [
        trial for trial in shortlist if _is_faster(task, trial, reference, control) and _is_smaller(task, trial, reference)
    ]
    return sorted(better, key=lambda trial: _score(task, trial), reverse=True)


def break_ties(task: SpeedTask, ranked: Sequence[Trial], reference: Trial) -> tuple[Trial, list[str]]:
    """Return the winner, and the names of those whose speed-up cannot be told from the leader's, the winner left out.

    Two are equal when the value of each lies in the interval of the other, and they differ by little. Of equals those
    stay whose outputs are about as close to the reference's as the closest, for a few hundred labels tell good luck from a
    good model less well than the distance from the reference does; of these the one that is faster over all batch sizes
    wins, for the one that a server will use is not known yet.

    Args:
        task: With the objective.
        ranked: Right and surely faster than the reference, the best first.
        reference: The trial of the reference, which wins when nothing is ranked.
    """
    if not ranked or task.objective == "size":
        return (ranked or [reference])[0], []
    best = _score_interval(task, ranked[0], reference)
    equals = [trial for trial in ranked if indistinguishable(_score_interval(task, trial, reference), best)]
    faithful = max(map(output_sqnr_db, equals)) - _SAME_SQNR_DB
    winner = max((trial for trial in equals if output_sqnr_db(trial) >= faithful), key=_over_all_batches)
    return winner, [trial.record.name for trial in equals if trial is not winner]


def _over_all_batches(trial: Trial) -> float:
    """Geometric mean of the speed-ups over the batch sizes, which decides between equals."""
    assert trial.record.profile is not None
    return statistics.geometric_mean(batch.ratio.value for batch in trial.record.profile.batches if batch.ratio)


def _is_faster(task: SpeedTask, trial: Trial, reference: Trial, control: Estimate) -> bool:
    """Whether the whole interval of its speed-up is above 1, at the batch size that the objective looks at; or need not be.

    One model in forty that is no faster gets there by chance. The reference itself, measured a second time in the same rounds,
    is such a model: what does not leave its interval behind has not shown more.
    """
    speed = _score_interval(task, trial, reference)
    return not task.ships_reference or (speed.low > 1 and speed.value > control.high)


def _is_smaller(task: SpeedTask, trial: Trial, reference: Trial) -> bool:
    """Whether it has fewer bytes than the reference, where that is what the objective looks at."""
    return task.objective != "size" or not task.ships_reference or _score(task, trial) > _score(task, reference)


def _score_interval(task: SpeedTask, trial: Trial, reference: Trial) -> Estimate:
    profile, of = trial.record.profile, reference.record.profile
    assert profile is not None
    assert of is not None
    if task.objective != "throughput":
        speedup = profile.batches[0].ratio
        assert speedup is not None
        return speedup
    batch, best = _best_throughput(task, profile)
    relative = best / _best_throughput(task, of)[1]
    speedup = profile.at(batch).ratio
    assert speedup is not None
    width = relative / speedup.value
    return Estimate(value=relative, low=speedup.low * width, high=speedup.high * width, count=speedup.count)


def _best_throughput(task: SpeedTask, profile: Profile) -> tuple[int, float]:
    limit = task.latency_limit_ms
    within = [trial for trial in profile.batches if limit is None or trial.p99.value <= limit] or [profile.batches[0]]
    best = max(within, key=lambda trial: trial.throughput)
    return best.batch, best.throughput


def _score(task: SpeedTask, trial: Trial) -> float:
    profile = trial.record.profile
    assert profile is not None
    if task.objective == "size":
        return -float(trial.record.size_bytes or 0)
    if task.objective == "throughput":
        return _best_throughput(task, profile)[1]
    speedup = profile.batches[0].ratio
    assert speedup is not None
    return speedup.value


def _reject_loser(task: SpeedTask, trial: Trial, winner: Trial, reference: Trial, control: Estimate) -> Trial:
    if trial.record.profile is None or trial.record.profile.depth == "screening":
        assert trial.screened is not None
        screened = f"{trial.screened.value:.2f} times the reference when screened"
        if winner is reference:
            return trial.reject(Rejection.SLOWER, f"{screened}: not surely faster")
        return trial.reject(Rejection.NOT_BEST, f"{screened}; {winner.record.name} is better")
    speed = _score_interval(task, trial, reference)
    if not _is_faster(task, trial, reference, control):
        return trial.reject(Rejection.SLOWER, f"{speedup_text(speed)} the speed of the reference: not surely faster")
    if not _is_smaller(task, trial, reference):
        return trial.reject(
            Rejection.NOT_BEST, f"{(trial.record.size_bytes or 0) / 1e6:.1f} MB: not smaller than the reference"
        )
    what = (
        f"{(trial.record.size_bytes or 0) / 1e6:.1f} MB" if task.objective == "size" else speedup_text(speed) + " the reference"
    )
    return trial.reject(Rejection.NOT_BEST, f"{what}; {winner.record.name} is better")


def _why(task: SpeedTask, winner: Trial, reference: Trial, equals: Sequence[str]) -> str:
    if winner is reference:
        return "no candidate was both right and surely faster than the reference, so the reference is shipped"
    speed = _score_interval(task, winner, reference)
    kind = {"latency": "the lowest latency", "throughput": "the highest throughput", "size": "the smallest size"}[
        task.objective
    ]
    quality = winner.record.quality
    assert quality is not None
    proof = {
        "pass": proof_text(quality),
        "inconclusive": inconclusive_text(quality),
        "fail": "",
    }[quality.verdict]
    shared = (
        f" (not to be told from {', '.join(equals)}, and closer to the reference or faster over all batch sizes)"
        if equals
        else ""
    )
    marked = ", disturbed by other work and not proven" if _is_disturbed(winner) else ""
    return f"{kind} of all that passed: {speedup_text(speed)} the speed of the reference{marked}{shared}; {proof}"


def _is_disturbed(trial: Trial) -> bool:
    return trial.record.profile is not None and trial.record.profile.disturbed


def estimated_objective(task: SpeedTask, trial: Trial) -> float:
    """How good a candidate looks for the objective after screening; more is better."""
    if task.objective == "size":
        return -float(trial.record.size_bytes or 0)
    return trial.screened.value if trial.screened else 0.0


def output_sqnr_db(trial: Trial) -> float:
    """Signal-to-noise ratio in dB of the output that is furthest from the reference's; 0 where there is none."""
    quality = trial.record.quality
    ratios = [value for name, value in quality.fidelity.items() if name.endswith(".snr_db")] if quality else []
    return min(ratios, default=0.0)


def rank_by_estimate(task: SpeedTask, trials: Sequence[Trial]) -> list[Trial]:
    """The fastest first; of those that screening cannot tell from the fastest, the closest to the reference first."""
    ranked = sorted(trials, key=lambda trial: estimated_objective(task, trial), reverse=True)
    if not ranked or task.objective == "size":
        return ranked
    return sorted(ranked, key=lambda trial: (0, -output_sqnr_db(trial)) if alike(task, trial, ranked[0]) else (1, 0.0))


def alike(task: SpeedTask, trial: Trial, fastest: Trial) -> bool:
    """Whether screening cannot tell a candidate from the fastest; sizes can always be told apart."""
    if task.objective == "size" or trial.screened is None:
        return False
    best = estimated_objective(task, fastest)
    return trial.screened.high >= best and trial.screened.value >= _ALIKE * best
