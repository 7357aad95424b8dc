"""How fast language models answer: one request at a time, in turns, each in a process of its own and all others stopped."""

from __future__ import annotations

__all__ = ["Answering", "SpeedPlan", "measure_generation"]

import contextlib
import dataclasses
import functools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from mopt.errors import CandidateRejectedError
from mopt.profiles.measure import Pausable, Turn, TurnLog, count_rounds, percentile, ratio, take_turn
from mopt.profiles.noise import NoiseMonitor
from mopt.records.language import GenerationSpeed
from mopt.records.measurement import Estimate

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_FEWEST = 3
"""Rounds that are run however long they take."""


class Answered(Protocol):
    """An answer and its times."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The new tokens."""

    @property
    def first_seconds(self) -> float:
        """To the first token."""

    @property
    def rest_seconds(self) -> float:
        """From the first token to the last."""


class Answering(Pausable, Protocol):
    """A language model in a process of its own."""

    def generate(self, prompt: Tokens, count: int) -> Answered:
        """Continue a prompt greedily."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedPlan:
    """What is asked, and how often.

    Attributes:
        prompts: Token numbers, shape [n] each, of one length; a round takes the next one.
        answer: Most tokens of an answer.
        rounds: Most rounds.
        budget_seconds: After which no new round begins.
        baseline: Name of the model that speed-ups are over.
    """

    prompts: Sequence[Tokens]
    answer: int
    rounds: int
    budget_seconds: float
    baseline: str


def measure_generation(
    processes: Mapping[str, Answering], plan: SpeedPlan, monitor: NoiseMonitor
) -> dict[str, GenerationSpeed | CandidateRejectedError]:
    """Let models take turns with the same prompts, and return how fast each of them was.

    A round is a turn of each, in a shuffled order; a speed-up is the median over rounds of the ratio within a round. What fails
    is left out from then on, with its error.

    Args:
        processes: By name; all are paused on return.
        plan: What is asked.
        monitor: Knows what disturbs, and how long quiet may be waited for.
    """
    failed: dict[str, CandidateRejectedError] = {}
    for name, process in processes.items():
        process.pause()
        with _failures(name, failed):
            process.resume()
            process.generate(plan.prompts[0], 2)  # what the first request prepares is no part of any other
            process.pause()
    rounds: list[dict[str, Turn]] = []
    shuffle = random.Random(0)  # noqa: S311 -- an order, not a secret
    start = time.monotonic()
    while len(rounds) < plan.rounds and (len(rounds) < _FEWEST or time.monotonic() - start < plan.budget_seconds):
        order = [name for name in processes if name not in failed]
        shuffle.shuffle(order)
        prompt = plan.prompts[len(rounds) % len(plan.prompts)]
        turns: dict[str, Turn] = {}
        for name in order:
            with _failures(name, failed):
                turn = functools.partial(_asked, processes[name], prompt, plan.answer)
                turns[name] = take_turn(processes[name], monitor, turn)
        rounds.append(turns)
    alive = [name for name in processes if name not in failed]
    complete = [tuple(turns[name] for name in alive) for turns in rounds if all(name in turns for name in alive)]
    counted, disturbed = count_rounds(complete, min(_FEWEST, plan.rounds))
    logs = {
        name: [TurnLog(tuple((turn[index].latencies[part],) for turn in counted), disturbed) for part in (0, 1)]
        for index, name in enumerate(alive)
    }
    length = len(plan.prompts[0])
    return {name: failed.get(name) or _speed(logs[name], logs.get(plan.baseline), name, plan, length) for name in processes}


@contextlib.contextmanager
def _failures(name: str, failed: dict[str, CandidateRejectedError]) -> Iterator[None]:
    try:
        yield
    except CandidateRejectedError as error:
        failed[name] = error


def _asked(process: Answering, prompt: Tokens, count: int) -> list[float]:
    """Milliseconds to the first token, and for each token after it."""
    try:
        answer = process.generate(prompt, count)
    finally:
        process.pause()
    return [answer.first_seconds * 1e3, answer.rest_seconds * 1e3 / max(1, len(answer.ids) - 1)]


def _speed(
    logs: Sequence[TurnLog], baseline: Sequence[TurnLog] | None, name: str, plan: SpeedPlan, length: int
) -> GenerationSpeed:
    first, rest = logs
    prefill, decode = None, None
    if baseline is not None and name != plan.baseline:
        prefill, decode = ratio(baseline[0], first), ratio(baseline[1], rest)
    return GenerationSpeed(
        prompt_tokens=length,
        answer_tokens=plan.answer,
        prefill=_rate(first, length),
        decode=_rate(rest, 1),
        prefill_ratio=prefill,
        decode_ratio=decode,
        disturbed=first.disturbed,
    )


def _rate(log: TurnLog, tokens: int) -> Estimate:
    """Tokens per second: the median over rounds with its interval."""
    return percentile([tokens * 1e3 / max(latency, 1e-6) for latency in log.latencies], 0.5)
