"""Mixed precision: the operators that INT8 hurts most stay in float."""

from __future__ import annotations

__all__ = ["mixed_variants"]

import dataclasses
import json
from pathlib import Path
from typing import Any

from mopt.artifacts.model import Model
from mopt.artifacts.store import Store, code_digest
from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.isolation import run
from mopt.passes._sensitivity import rank_nodes
from mopt.passes.quantize_int8_nncf import QuantizeInt8Nncf
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.plan import Candidate
from mopt.trials import run_cached

SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
"""Parts of the quantized operators that are left in float, tried from the fewest."""


def mixed_variants(candidate: Candidate, source: Model, store: Store) -> list[Candidate]:
    """Return candidates that leave more and more of the worst operators in float; none where the operators cannot be ranked."""
    step = candidate.passes[-1] if candidate.passes else None
    if not isinstance(step, QuantizeInt8Static | QuantizeInt8Nncf):
        return []
    probe = step if isinstance(step, QuantizeInt8Static) else QuantizeInt8Static(calibration=step.calibration)
    try:
        ranked = _rank(probe, source, store)
    except (CandidateRejectedError, NotApplicableError):
        return []
    counts = sorted({max(1, round(share * len(ranked))) for share in SHARES})
    return [
        Candidate(
            f"{candidate.name}-mixed{count}",
            (*candidate.passes[:-1], dataclasses.replace(step, float_nodes=tuple(sorted(ranked[:count])))),
            candidate.runtime,
        )
        for count in counts
    ]


def _rank(probe: QuantizeInt8Static, source: Model, store: Store) -> list[str]:
    """Return the names of the quantized operators, the one that adds the most noise first."""
    quantized, _ = run_cached((probe,), source, store)
    key: dict[str, Any] = {"float": source.digest, "quantized": quantized.digest, "code": code_digest()}

    def make(folder: Path) -> None:
        ranked = run(rank_nodes, source.file, quantized.file, probe.calibration)
        (folder / "ranking.json").write_text(json.dumps(ranked))

    folder, _ = store.get("rankings", key, make)
    return [entry["node"] for entry in json.loads((folder / "ranking.json").read_text())]
