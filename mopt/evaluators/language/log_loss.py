"""Log-loss of a language model: the field's perplexity, on a scale on which differences add up."""

from __future__ import annotations

__all__ = ["LogLoss", "perplexity", "token_rows"]

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
class LogLoss(Metric):
    """Mean negative log-likelihood of the tokens of a text, in nats per token; ``exp`` of it is the perplexity.

    A sample is a token, and its group is its document: ``noninferiority_test(metric, rows, reference, tolerance,
    groups=windows.groups())`` has the document-level bound. The text is its own label, so the verdict is one ``with labels``.

    A relative tolerance ``r`` allows a loss of ``r`` nats: the perplexity may grow by the factor ``exp(r)``, which is 1.01
    for 1%.
    """

    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "nats per token"

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return the loss of one token, shape [1]; ``outputs`` has its ``logprob``. For a text, see :func:`token_rows`."""
        import numpy as np

        return -np.asarray(outputs["logprob"], np.float64).reshape(1)

    def scale(self, rows: Rows) -> float:
        """Return 1: a part of the perplexity is a difference of its logarithm, whatever its size."""
        return 1.0


def token_rows(scores: Sequence[TokenScores], windows: ScoredWindows) -> Rows:
    """Return the loss of each token that counts, shape [tokens, 1], in the order of ``windows.groups()``."""
    import numpy as np

    return -windows.select([score.logprob for score in scores]).astype(np.float64)[:, None]


def perplexity(log_loss: float) -> float:
    """Return what a log-loss in nats per token is as perplexity."""
    return math.exp(log_loss) if log_loss < math.log(1e300) else math.inf
