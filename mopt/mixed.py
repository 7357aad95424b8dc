"""Mixed precision: the operators that INT8 hurts most stay in float."""

from __future__ import annotations

__all__ = ["mixed_variants"]

import dataclasses
import json
from pathlib import Path
from typing import Any

from mopt.artifacts.model import Model
from mopt.artifacts.samples import Samples
from mopt.artifacts.store import Store, code_digest
from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.isolation import run
from mopt.passes._sensitivity import rank_nodes
from mopt.passes.quantize_int8_nncf import QuantizeInt8Nncf
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.plan import Candidate

COUNTS = (2, 4, 8, 16, 32)
"""Numbers of operators that are left in float, tried from the fewest."""
_MOST = 0.5
"""Share of the quantized operators; with more of them in float, little is left to gain."""


def mixed_variants(
    candidate: Candidate, source: Model, quantized: Model, store: Store, memory: int | None = None
) -> list[Candidate]:
    """Return candidates that leave more and more of the worst operators in float; none where operators cannot be ranked.

    Args:
        candidate: Whose last pass quantized.
        source: The model that was quantized.
        quantized: What the candidate made of it.
        store: Where rankings are kept.
        memory: Bytes that ranking may take; None for any.
    """
    step = candidate.passes[-1] if candidate.passes else None
    if not isinstance(step, QuantizeInt8Static | QuantizeInt8Nncf) or step.float_nodes:
        return []
    try:
        ranked = _rank(source, quantized, step.calibration, store, memory)
    except (CandidateRejectedError, NotApplicableError):
        return []
    return [
        Candidate(
            f"{candidate.name}-mixed{count}",
            (*candidate.passes[:-1], dataclasses.replace(step, float_nodes=tuple(sorted(ranked[:count])))),
            candidate.runtime,
        )
        for count in COUNTS
        if count <= _MOST * len(ranked)
    ]


def _rank(source: Model, quantized: Model, calibration: Samples, store: Store, memory: int | None) -> list[str]:
    """Return the names of the quantized operators, the one that adds the most noise first."""
    key: dict[str, Any] = {
        "float": source.digest, "quantized": quantized.digest, "samples": calibration.digest, "code": code_digest()
    }  # fmt: skip

    def make(folder: Path) -> None:
        ranked = run(rank_nodes, source.file, quantized.file, calibration, memory=memory)
        (folder / "ranking.json").write_text(json.dumps(ranked))

    folder, _ = store.get("rankings", key, make)
    return [entry["node"] for entry in json.loads((folder / "ranking.json").read_text())]
