"""What a build of a language model will take: memory, time and disk, said before it begins."""

from __future__ import annotations

__all__ = ["outlay_of", "outlay_text"]

from collections.abc import Sequence

from mopt.model.checkpoint import Checkpoint
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language._estimate import Estimate, estimate_with
from mopt.passes.language._rates import measure_rates
from mopt.records import units as q
from mopt.records.language import Outlay
from mopt.search.language.trial import LanguageCandidate
from mopt.system.environments import interpreter_of
from mopt.system.process import run
from mopt.workflows.language._request import LanguageSite

_LIBRARIES = 1 << 30
"""Bytes that PyTorch and what builds on it take by themselves."""
_HOLDS = {"onnxruntime_genai": 5.0, "openvino_genai": 2.0}
"""How often a library holds the whole model in float32 while it writes its own form."""
_START_SECONDS, _BYTES_PER_SECOND = 8.0, 50e6
"""Of a pass that reads and writes a model once."""


def outlay_of(site: LanguageSite, candidates: Sequence[LanguageCandidate]) -> Outlay:
    """Return what the passes of a build will take, before it begins.

    Memory is that of the most demanding pass. Passes of a library hold the whole model, in float32 where they trace it.
    """
    checkpoint = site.source.checkpoint
    steps = {repr(step): step for each in candidates if each.refused is None for step in each.passes}.values()
    blockwise = [step for step in steps if isinstance(step, BlockwisePass)]
    estimates = _estimates(checkpoint, blockwise) if checkpoint is not None and blockwise else []
    others = [step for step in steps if not isinstance(step, BlockwisePass)]
    size, whole = site.source.record.size_bytes, 4 * site.source.record.parameters
    held = [_HOLDS.get(step.tools, 0.0) * whole for step in others]
    return Outlay(
        memory_bytes=int(max([*(estimate.memory for estimate in estimates), *(_LIBRARIES + part for part in held)], default=0)),
        seconds=sum(estimate.seconds for estimate in estimates)
        + sum(_START_SECONDS + size / _BYTES_PER_SECOND for _ in others),
        disk_bytes=int(sum(estimate.disk for estimate in estimates) + len(others) * size / 2),
    )


def _estimates(checkpoint: Checkpoint, steps: Sequence[BlockwisePass]) -> list[Estimate]:
    """What each pass will take, at the rates of this machine now."""
    rates = run(measure_rates, python=interpreter_of(steps[0].tools))
    return [estimate_with(checkpoint, step, rates) for step in steps]


def outlay_text(outlay: Outlay) -> str:
    """Say it in one line."""
    return (
        f"expected: {q.memory(outlay.memory_bytes)} of memory, {q.about(outlay.seconds)}, {q.memory(outlay.disk_bytes)} of disk"
    )
