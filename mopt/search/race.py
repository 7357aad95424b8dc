"""Judge candidates in the order of their speed, and stop where nobody slower can win."""

from __future__ import annotations

__all__ = ["Race"]

from collections.abc import Sequence

from mopt.errors import Rejection
from mopt.progress import Progress, Silent
from mopt.search.outlook import QUALITY
from mopt.search.quality import ReferenceOutputs, check_quality, compile_all, quality_note, screen_quality
from mopt.search.screening import screen_latency
from mopt.search.selection import alike, estimated_objective, output_sqnr_db
from mopt.search.structure import same_speed, timing_key
from mopt.search.task import SearchTask
from mopt.search.trial import Candidate, Trial, new_trial

_PROCESS = 1.1
"""By how much the next process of a model may be faster: one process is all that screening has seen of it."""


class Race:
    """Candidates that were screened, on their way to the shortlist.

    The fastest come first, together with all that cannot be told from them. What has the same graph and types as one of them
    is compiled only then. Of those with the same graph the closest to the reference is judged on all samples, and the next one
    only when that is wrong. What is surely slower than one that holds is not judged at all.

    Args:
        task: What is asked.
        reference: The trial of the reference.
        expected: Its answers.
        trials: Of all candidates that stand for themselves, screened.
        variants: Candidates that are as fast as one of those, and not compiled yet.
        deadline: On the monotonic clock; no variant is compiled after it.
    """

    def __init__(
        self,
        task: SearchTask,
        reference: Trial,
        expected: ReferenceOutputs,
        trials: Sequence[Trial],
        variants: Sequence[Candidate],
        deadline: float,
    ) -> None:
        self._task = task
        self._reference = reference
        self._expected = expected
        self._trials = {trial.record.name: trial for trial in trials}
        self._variants = list(variants)
        self._deadline = deadline
        self._holding: list[Trial] = []

    @property
    def trials(self) -> list[Trial]:
        """All that were compiled, with what became of them."""
        return list(self._trials.values())

    @property
    def holding(self) -> list[Trial]:
        """Those that hold on all samples, no two of the same graph and types."""
        return list(self._holding)

    def run(self, progress: Progress) -> None:
        """Judge until the shortlist is full or nobody is left that may win."""
        waiting = sorted((trial for trial in self.trials if trial.alive), key=self._estimate, reverse=True)
        progress.stage(QUALITY, len(waiting) + len(self._variants))
        while waiting and not self._is_full:
            tier = [trial for trial in waiting if trial is waiting[0] or alike(self._task.speed, trial, waiting[0])]
            tier = [trial for trial in tier if not self._is_beaten(trial)]
            if not tier:
                break
            waiting = [trial for trial in waiting if trial not in tier]
            groups = [group for leader in tier if (group := self._look(leader, progress))]
            for group in sorted(groups, key=lambda group: output_sqnr_db(group[0]), reverse=True):
                self._judge(group, progress)
        for variant in self._variants:
            self._trials[variant.name] = self._not_compiled(variant)

    def _not_compiled(self, variant: Candidate) -> Trial:
        leader = self._trials[variant.same_speed_as]
        outcome = leader.record.outcome
        why = outcome.rejection if outcome else "another candidate is better"
        reason = f"not compiled: of the same graph and types as {leader.record.name} ({why})"
        return new_trial(variant).reject(outcome.rejection if outcome else Rejection.NOT_BEST, reason)

    @property
    def _is_full(self) -> bool:
        return len(self._holding) >= self._task.effort.shortlist

    def _estimate(self, trial: Trial) -> float:
        return estimated_objective(self._task.speed, trial)

    def _is_beaten(self, trial: Trial, luck: float = _PROCESS) -> bool:
        """Whether one that holds is surely better; the smallest may turn out to be no faster than the reference.

        Args:
            trial: That was screened.
            luck: Times its speed that it may have; 1 where it takes more work to try it than to time it.
        """
        if self._task.speed.objective == "size" or trial.screened is None:
            return False
        least = luck * trial.screened.high
        return any(holding.screened and holding.screened.low > least for holding in self._holding)

    def _look(self, leader: Trial, progress: Progress) -> list[Trial]:
        """Look at few samples of a candidate and of its variants; return those that may be right, the closest first."""
        group = self._looked_at([leader], progress)
        if (self._task.effort.variants or not group) and not self._is_beaten(leader, luck=1.0):
            group += self._looked_at(self._variants_of(leader), progress)
        return sorted(group, key=output_sqnr_db, reverse=True)

    def _looked_at(self, trials: Sequence[Trial], progress: Progress) -> list[Trial]:
        looked = [screen_quality(self._task.quality, self._expected, trial) if trial.alive else trial for trial in trials]
        for trial in looked:
            self._trials[trial.record.name] = trial
            if not trial.alive:
                progress.step(quality_note(trial))
        return [trial for trial in looked if trial.alive]

    def _variants_of(self, leader: Trial) -> list[Trial]:
        """Compile what is as fast as ``leader``; what turns out to be another graph is screened by itself."""
        variants = [candidate for candidate in self._variants if candidate.same_speed_as == leader.record.name]
        self._variants = [candidate for candidate in self._variants if candidate not in variants]
        compiled = compile_all(self._task.compiling, variants, self._deadline, Silent(), before=self.trials)
        key = timing_key(leader)
        return [self._timed(variant, leader, key) if variant.alive else variant for variant in compiled]

    def _timed(self, variant: Trial, leader: Trial, key: str) -> Trial:
        if timing_key(variant) == key:
            return same_speed(variant, leader)
        (screened,) = screen_latency(self._task.speed, self._reference, [variant], Silent())
        return screened

    def _judge(self, group: Sequence[Trial], progress: Progress) -> None:
        """Judge on all samples until one of a group holds; the others are further from the reference and no faster."""
        holds: Trial | None = None
        for trial in group:
            judged = trial
            if holds is not None:
                reason = f"the same graph and types as {holds.record.name}, which is closer to the reference"
                judged = trial.reject(Rejection.NOT_BEST, reason)
            elif not self._is_full:
                judged = check_quality(self._task.quality, self._expected, trial)
                holds = judged if judged.alive else None
            self._trials[judged.record.name] = judged
            progress.step(quality_note(judged))
        if holds is not None:
            self._holding.append(holds)
