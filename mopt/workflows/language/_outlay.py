"""What a build of a language model will take, said before it begins; and what it took."""

from __future__ import annotations

__all__ = ["expected_outlay", "first_made", "product_seconds", "taken_outlay"]

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence

from mopt.passes._base import Pass
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language._estimate import Estimate, estimate_with
from mopt.passes.language._rates import measure_rates
from mopt.passes.language.observe_imatrix import ObserveImatrix
from mopt.records.language import LanguageTrial, Outlay
from mopt.records.trial import PassRecord
from mopt.search.language.trial import LanguageCandidate
from mopt.system.environments import interpreter_of
from mopt.system.process import run
from mopt.workflows.language._request import LanguageSite, LanguageTask


@dataclasses.dataclass(frozen=True)
class _Cost:
    """What a library takes, fitted to builds of models of 8 and 135 million parameters; see ``benchmarks.language_outlay``.

    Attributes:
        start: Seconds before it does anything, on a processor whose core multiplies and adds 50 billion float32 a second.
        weight: Of such multiplications for each parameter of the model.
        token: The same for each parameter and token.
        base: Bytes that it holds of itself.
        copies: How often it holds all parameters in float32.
    """

    start: float
    weight: float = 0.0
    token: float = 0.0
    base: float = 0.3e9
    copies: float = 0.0


_START_PRODUCT = 1e-11
"""Seconds of a multiplication and an addition where the seconds of ``start`` were measured."""
_PASSES = {
    "export_gguf": _Cost(3.0, 2500, base=0.4e9, copies=0.5),
    "export_gguf_codes": _Cost(4.0, 2000, base=0.5e9, copies=0.7),
    "quantize_gguf": _Cost(1.0, 2000),
    "observe_imatrix": _Cost(2.0, token=3.4, base=0.1e9, copies=1.0),
    "export_openvino_genai": _Cost(30.0, 5000, base=0.6e9, copies=2.0),
    "export_openvino_codes": _Cost(30.0, 5000, base=0.6e9, copies=2.0),
    "export_onnxruntime_genai": _Cost(20.0, 5000, base=1e9, copies=5.0),
}
_OTHER_PASS = _Cost(2.0, 500)
_RUNTIMES = {
    "transformers": _Cost(5.0, token=1.2, base=0.5e9, copies=1.65),
    "llama_cpp": _Cost(2.0, token=2.0, base=0.1e9, copies=1.6),
    "vllm": _Cost(12.0, token=0.7, base=0.8e9, copies=2.0),
    "onnxruntime_genai": _Cost(4.0, token=1.0, copies=1.5),
    "openvino_genai": _Cost(5.0, token=0.5, copies=1.5),
}
_OTHER_RUNTIME = _Cost(5.0, token=1.0, copies=1.0)
_WRITTEN = 20.0
"""How many tokens of a text are scored in the time in which one is written."""
_ROWS, _COLUMNS = 2048, 1024
"""Of the product that is timed."""


def expected_outlay(site: LanguageSite, task: LanguageTask, candidates: Sequence[LanguageCandidate]) -> Outlay:
    """Return what a build will take, before it begins.

    Args:
        site: The model and the machine.
        task: What is asked of every candidate.
        candidates: Those that are refused take nothing.
    """
    tried = [candidate for candidate in candidates if candidate.refused is None]
    steps = _distinct_steps(tried)
    parameters, product = site.source.record.parameters, product_seconds()
    estimates = list(_estimates(site, steps, product))
    passes = sum(estimate.seconds for estimate in estimates)
    runtimes = [task.judging.runtime.name, *(candidate.runtime.name for candidate in tried)]
    return Outlay(
        memory_bytes=max(
            [estimate.memory for estimate in estimates]
            + [_memory(_RUNTIMES.get(name, _OTHER_RUNTIME), parameters) for name in runtimes]
        ),
        seconds=passes + _judging_seconds(task, runtimes, parameters, product) + _racing_seconds(task, tried, product),
        passes_seconds=passes,
        disk_bytes=sum(estimate.disk for estimate in estimates),
    )


def taken_outlay(trials: Iterable[LanguageTrial], seconds: float, disk_bytes: int) -> Outlay | None:
    """Return what a build took; None where the cache had a part of it, which proves nothing."""
    listed = list(trials)
    first = first_made(listed)
    if any(record.cached for record in first):
        return None
    peaks = [record.peak_bytes for record in first] + [trial.peak_bytes for trial in listed]
    return Outlay(
        memory_bytes=max((peak for peak in peaks if peak), default=0),
        seconds=seconds,
        passes_seconds=sum(record.seconds for record in first),
        disk_bytes=disk_bytes,
    )


def first_made(trials: Iterable[LanguageTrial]) -> list[PassRecord]:
    """Return what each pass did when it ran first; what candidates share, from the source on, is cached from the second on."""
    records: dict[str, PassRecord] = {}
    for trial in trials:
        chain = ""
        for record in trial.passes:
            chain += f"{record.name} {record.fields!r}\n"
            records.setdefault(chain, record)
    return list(records.values())


def _distinct_steps(candidates: Sequence[LanguageCandidate]) -> list[Pass]:
    """Return the passes that will run: a chain that candidates share, from the source on, once."""
    chains = [chain for candidate in candidates for chain in (candidate.passes, candidate.scored_passes or ())]
    steps = {repr(chain[: index + 1]): step for chain in chains for index, step in enumerate(chain)}
    return list(steps.values())


def product_seconds() -> float:
    """Return the seconds of a multiplication and an addition in a product of float32 matrices, with all threads."""
    import numpy as np

    left, right = np.ones((_ROWS, _COLUMNS), np.float32), np.ones((_COLUMNS, _COLUMNS), np.float32)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return min(times) / (_ROWS * _COLUMNS * _COLUMNS)


def _seconds(cost: _Cost, parameters: int, tokens: float, product: float) -> float:
    return cost.start * product / _START_PRODUCT + parameters * product * (cost.weight + cost.token * tokens)


def _memory(cost: _Cost, parameters: int) -> int:
    return int(cost.base + 4 * cost.copies * parameters)


def _estimates(site: LanguageSite, steps: Sequence[Pass], product: float) -> Iterator[Estimate]:
    """What each pass will take: block by block at rates that are measured now, whole models by what their libraries took."""
    blockwise = [step for step in steps if isinstance(step, BlockwisePass)]
    checkpoint = site.source.checkpoint
    if blockwise and checkpoint is not None:
        rates = run(measure_rates, python=interpreter_of(blockwise[0].tools))
        yield from (estimate_with(checkpoint, step, rates) for step in blockwise)
    size, parameters = site.source.record.size_bytes, site.source.record.parameters
    for step in steps:
        if isinstance(step, BlockwisePass):
            continue
        cost = _PASSES.get(step.name, _OTHER_PASS)
        tokens = step.windows.count * step.windows.length if isinstance(step, ObserveImatrix) else 0
        yield Estimate(
            memory=_memory(cost, parameters),
            seconds=_seconds(cost, parameters, tokens, product),
            disk=0 if isinstance(step, ObserveImatrix) else size // 2,
        )


def _judging_seconds(task: LanguageTask, runtimes: Sequence[str], parameters: int, product: float) -> float:
    """Scoring the text and writing answers, once in each runtime for each candidate."""
    answers = task.judging.asked
    tokens = sum(map(len, answers.windows)) + len(answers.prompts) * _WRITTEN * answers.answer
    costs = (_RUNTIMES.get(name, _OTHER_RUNTIME) for name in runtimes)
    return sum(_seconds(cost, parameters, tokens, product) for cost in costs)


def _racing_seconds(task: LanguageTask, tried: Sequence[LanguageCandidate], product: float) -> float:
    """Starting those that are measured, and their turns."""
    racing = task.racing
    entered = sorted((_RUNTIMES.get(each.runtime.name, _OTHER_RUNTIME).start for each in tried), reverse=True)
    starts = sum(entered[: racing.shortlist + 1]) * product / _START_PRODUCT
    each = task.judging.parameters * product * (len(racing.prompts[0]) + _WRITTEN * racing.answer)
    turns = min(racing.rounds, len(racing.prompts)) * min(racing.shortlist + 1, len(tried)) * each
    return starts + min(turns, racing.budget_seconds)
