"""Mixed precision: the operators that quantization hurts most stay in float, and no more of them than must."""

from __future__ import annotations

__all__ = [
    "MAX_TRIALS",
    "MixedPrecisionPlan",
    "minimize_float_nodes",
    "plan_mixed_precision",
    "quantizing_pass",
    "rank_sensitivity",
]

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.passes._base import Pass, QuantizingPass
from mopt.passes._sensitivity import rank_nodes
from mopt.search.compile import compile_passes
from mopt.search.trial import Candidate
from mopt.system.deadlines import TimeLimit
from mopt.system.hangs import named, retry_hung
from mopt.system.process import run
from mopt.system.store import Store, code_digest

MAX_TRIALS = 10
"""Each costs a compilation and a look at speed and quality."""
_FIRST = 2
_MOST = 0.6
"""Share of the quantized operators; with more of them in float, little is left to gain."""
_DROPPED = 2
"""Of the operators that stay in float, how many of the slowest are tried in integers again."""


@dataclasses.dataclass(frozen=True)
class MixedPrecisionPlan:
    """A candidate that quantizes, with its operators in the order in which they would go back to float.

    Attributes:
        candidate: One of whose passes lowers the precision.
        ranked: Names of the quantized operators, the one that adds the most noise first.
    """

    candidate: Candidate
    ranked: tuple[str, ...]

    @property
    def most(self) -> int:
        """How many may stay in float."""
        return int(_MOST * len(self.ranked))

    def solo(self, name: str) -> Candidate:
        """Return the candidate that lowers the precision of one operator, whatever that does to the speed."""
        variant = self.with_float([node for node in self.ranked if node != name])
        return dataclasses.replace(variant, passes=_changed(variant.passes, lambda step: step.isolated()))

    def with_float(self, names: Sequence[str], suffix: str = "") -> Candidate:
        """Return the candidate that leaves these operators in float."""
        return dataclasses.replace(
            self.candidate,
            name=f"{self.candidate.name}-mixed{len(names)}{suffix}",
            passes=_changed(self.candidate.passes, lambda step: step.with_float_nodes(names)),
        )


def plan_mixed_precision(
    candidate: Candidate, source: Model, samples: Samples, store: Store, memory: int | None = None
) -> MixedPrecisionPlan | None:
    """Rank the operators of a candidate; None where no pass leaves a choice, or they cannot be ranked.

    Args:
        candidate: That was rejected for its quality.
        source: The model that its passes start from.
        samples: Real samples, for a pass that needs none itself.
        store: Where models and rankings are kept.
        memory: Bytes that ranking may take; None for any.
    """
    step = quantizing_pass(candidate.passes)
    if step is None or step.float_nodes:
        return None
    try:
        quantized = compile_passes(_for_ranking(candidate, step), source, store, memory).model
        ranked = rank_sensitivity(source, quantized, step.samples() or samples, store, memory)
    except (CandidateRejectedError, NotApplicableError):
        return None
    return MixedPrecisionPlan(candidate, tuple(trial["node"] for trial in ranked))


def _for_ranking(candidate: Candidate, step: QuantizingPass) -> tuple[Pass, ...]:
    """The passes up to the one that lowers the precision, and with what stays in float in FP32."""
    return _changed(candidate.passes[: candidate.passes.index(step) + 1], lambda lowering: lowering.for_ranking())


def quantizing_pass(passes: Sequence[Pass]) -> QuantizingPass | None:
    """Return the pass that quantizes or halves operators, and can leave some of them in float; None where there is none."""
    return next((step for step in reversed(passes) if isinstance(step, QuantizingPass)), None)


def _changed(passes: Sequence[Pass], change: Callable[[QuantizingPass], QuantizingPass]) -> tuple[Pass, ...]:
    """The same passes with another version of the one that lowers the precision."""
    lowering = quantizing_pass(passes)
    return tuple(change(step) if step is lowering and isinstance(step, QuantizingPass) else step for step in passes)


def rank_sensitivity(
    source: Model, quantized: Model, samples: Samples, store: Store, memory: int | None = None
) -> list[dict[str, Any]]:
    """Return the quantized operators with the noise that each adds on its own; see :func:`rank_nodes`."""
    key: dict[str, Any] = {
        "float": source.digest, "quantized": quantized.digest, "samples": samples.digest, "code": code_digest()
    }  # fmt: skip

    def make(folder: Path) -> None:
        limit = TimeLimit.from_size(source.size + quantized.size)

        def rank() -> list[dict[str, Any]]:
            entries: list[dict[str, Any]] = run(
                rank_nodes, source.file, quantized.file, samples, limit=limit, memory=memory, modules=Pass.modules
            )
            return entries

        ranked = retry_hung(named("ranking operators"), rank, rank)
        (folder / "ranking.json").write_text(json.dumps(ranked))

    folder = store.get("rankings", key, make)
    ranking: list[dict[str, Any]] = json.loads((folder / "ranking.json").read_text())
    return ranking


def minimize_float_nodes(
    plan: MixedPrecisionPlan, holds: Callable[[Candidate], bool | None], slowest: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[tuple[str, ...]]:
    """Search for the fewest operators that have to stay in float; yield each set that holds, a better one after the other.

    Their number is doubled until the candidate holds, then halved in between. At last the slowest of them are tried in
    integers again, one by one: an operator that is cheap to keep may do for one that is dear.

    Args:
        plan: What may stay in float.
        holds: Tries a candidate: whether its quality holds, or None where it gains nothing any more over what holds already.
        slowest: Sorts names by what they cost in float, the dearest first.
    """
    tried, low, count = 0, 0, min(_FIRST, plan.most)
    kept: tuple[str, ...] = ()
    while 0 < count <= plan.most and tried < MAX_TRIALS and not kept:
        tried += 1
        holding = holds(plan.with_float(plan.ranked[:count]))
        if holding is None:
            return
        if holding:
            kept = plan.ranked[:count]
            yield kept
        else:
            low = count
            count = min(2 * count, plan.most) if count < plan.most else plan.most + 1
    high = len(kept)
    while high - low > 1 and tried < MAX_TRIALS - _DROPPED:
        tried += 1
        middle = (low + high) // 2
        holding = holds(plan.with_float(plan.ranked[:middle]))
        if holding is False:
            low = middle
            continue
        high = middle
        if holding:
            kept = plan.ranked[:high]
            yield kept
    for name in slowest(kept)[: min(_DROPPED, MAX_TRIALS - tried)] if len(kept) > 1 else ():
        fewer = tuple(node for node in kept if node != name)
        if fewer and holds(plan.with_float(fewer, "-dropped")):
            kept = fewer
            yield kept
