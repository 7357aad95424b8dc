"""Bits per byte of text: what models with different tokenizers are compared by."""

from __future__ import annotations

__all__ = ["BitsPerByte", "byte_rows"]

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.datasets.windows import ScoredWindows
from mopt.evaluators._metric import Metric
from mopt.model.signature import Feed
from mopt.runtimes.language._base import TokenScores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitsPerByte(Metric):
    """Negative log-likelihood in bits over bytes of UTF-8 (Gao et al. 2020, "The Pile", section 3.1).

    A sample is a document: its number of tokens depends on the tokenizer, its bytes do not. Without a start token the first
    token of a document has no probability; its bytes are counted all the same.
    """

    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "bits per byte"

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return bits and bytes of one document, shape [2]; ``outputs`` has its tokens' ``logprob``, ``label`` its bytes."""
        import numpy as np

        return np.array([-float(np.asarray(outputs["logprob"], np.float64).sum()) / math.log(2), float(label)])

    def scores(self, rows: Rows) -> Rows:
        """Return bits over the bytes of an average document, shape [n]: their mean is exactly the value."""
        scores: Rows = rows[:, 0] / rows[:, 1].mean()
        return scores


def byte_rows(scores: Sequence[TokenScores], windows: ScoredWindows) -> tuple[Rows, list[str]]:
    """Return bits and bytes of each document, shape [documents, 2], and the documents."""
    import numpy as np

    bits = dict.fromkeys(windows.size, 0.0)
    for score, first, name in zip(scores, windows.first, windows.documents, strict=True):
        bits[name] -= float(score.logprob[first:].astype(np.float64).sum()) / math.log(2)
    return np.array([[bits[name], windows.size[name]] for name in bits]), list(bits)
