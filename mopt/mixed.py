"""Mixed precision: the operators that quantization hurts most stay in float, and no more of them than must."""

from __future__ import annotations

__all__ = ["Mixing", "fewest", "mixing", "rank"]

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.model import Model
from mopt.artifacts.samples import Samples
from mopt.artifacts.store import Store, code_digest
from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.isolation import run
from mopt.passes._base import Pass
from mopt.passes._sensitivity import rank_nodes
from mopt.plan import Candidate

MOST_TRIALS = 10
"""Each costs a compilation and a look at speed and quality."""
_FIRST = 2
_MOST = 0.6
"""Share of the quantized operators; with more of them in float, little is left to gain."""
_DROPPED = 2
"""Of the operators that stay in float, how many of the slowest are tried in integers again."""


@dataclasses.dataclass(frozen=True)
class Mixing:
    """A candidate that quantizes, with its operators in the order in which they would go back to float.

    Attributes:
        candidate: Whose last pass quantizes.
        ranked: Names of the quantized operators, the one that adds the most noise first.
    """

    candidate: Candidate
    ranked: tuple[str, ...]

    @property
    def most(self) -> int:
        """How many may stay in float."""
        return int(_MOST * len(self.ranked))

    def with_float(self, names: Sequence[str], suffix: str = "") -> Candidate:
        """Return the candidate that leaves these operators in float."""
        *before, step = self.candidate.passes
        kept = dataclasses.replace(step, float_nodes=tuple(sorted(names)))  # type: ignore[call-arg]
        return Candidate(f"{self.candidate.name}-mixed{len(names)}{suffix}", (*before, kept), self.candidate.runtime)


def mixing(
    candidate: Candidate, source: Model, quantized: Model, samples: Samples, store: Store, memory: int | None = None
) -> Mixing | None:
    """Rank the operators of a candidate; None where its last pass quantizes none, or they cannot be ranked.

    Args:
        candidate: That was rejected for its quality.
        source: The model that was quantized.
        quantized: What the candidate made of it.
        samples: Real samples, for a pass that needs none itself.
        store: Where rankings are kept.
        memory: Bytes that ranking may take; None for any.
    """
    step = candidate.passes[-1] if candidate.passes else None
    if step is None or not _quantizes(step) or step.float_nodes:  # type: ignore[attr-defined]
        return None
    try:
        ranked = rank(source, quantized, getattr(step, "calibration", None) or samples, store, memory)
    except (CandidateRejectedError, NotApplicableError):
        return None
    return Mixing(candidate, tuple(entry["node"] for entry in ranked))


def _quantizes(step: Pass) -> bool:
    return step.name.startswith("quantize_") and any(field.name == "float_nodes" for field in dataclasses.fields(step))


def rank(source: Model, quantized: Model, samples: Samples, store: Store, memory: int | None = None) -> list[dict[str, Any]]:
    """Return the quantized operators with the noise that each adds on its own; see :func:`rank_nodes`."""
    key: dict[str, Any] = {
        "float": source.digest, "quantized": quantized.digest, "samples": samples.digest, "code": code_digest()
    }  # fmt: skip

    def make(folder: Path) -> None:
        ranked = run(rank_nodes, source.file, quantized.file, samples, memory=memory)
        (folder / "ranking.json").write_text(json.dumps(ranked))

    folder, _ = store.get("rankings", key, make)
    found: list[dict[str, Any]] = json.loads((folder / "ranking.json").read_text())
    return found


def fewest(
    plan: Mixing, holds: Callable[[Candidate], bool | None], slowest: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[tuple[str, ...]]:
    """Search for the fewest operators that have to stay in float; yield each set that holds, a better one after the other.

    Their number is doubled until the candidate holds, then halved in between. At last the slowest of them are tried in
    integers again, one by one: an operator that is cheap to keep may do for one that is dear.

    Args:
        plan: What may stay in float.
        holds: Tries a candidate: whether its quality holds, or None where it is no faster than the reference any more.
        slowest: Sorts names by what they cost in float, the dearest first.
    """
    tried = 0
    low, high, count = 0, None, min(_FIRST, plan.most)
    while 0 < count <= plan.most and tried < MOST_TRIALS:
        tried += 1
        found = holds(plan.with_float(plan.ranked[:count]))
        if found is None:
            return
        if found:
            high = count
            yield plan.ranked[:count]
            break
        low = count
        count = min(2 * count, plan.most) if count < plan.most else plan.most + 1
    if high is None:
        return
    while high - low > 1 and tried < MOST_TRIALS - _DROPPED:
        tried += 1
        middle = (low + high) // 2
        if holds(plan.with_float(plan.ranked[:middle])):
            high = middle
            yield plan.ranked[:high]
        else:
            low = middle
    kept = list(plan.ranked[:high])
    for name in slowest(kept)[:_DROPPED] if high > 1 else ():
        fewer = [one for one in kept if one != name]
        if fewer and holds(plan.with_float(fewer, "-dropped")):
            kept = fewer
            yield tuple(kept)
