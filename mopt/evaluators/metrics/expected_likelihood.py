"""Likelihood that the reference expects of what comes, for models that output a distribution."""

from __future__ import annotations

__all__ = ["ExpectedLikelihood"]

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.evaluators._metric import one_output
from mopt.evaluators.label_free import LabelFreeMetric, Losses
from mopt.evaluators.metrics._distributions import form_of, log_probabilities
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

_UNSEEN = 2.0
"""How many times the largest divergence that was seen another sample may have."""
_LARGEST = 50.0
"""Nats that stand for an infinite divergence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpectedLikelihood(LabelFreeMetric):
    """``exp(E[log q])``, one over the perplexity, where what comes is distributed as the reference says.

    The loss in log-likelihood is then the divergence ``KL(reference || candidate)``: a tolerance of 1 % allows 0.01 nats. Where
    the data is from another distribution than the reference's, the divergence is usually the larger of the two.
    """

    @property
    def assumption(self) -> str:
        """What the estimate takes for granted."""
        return "what comes is distributed as the reference says, so that log-likelihood loses the divergence (KL)"

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return entropy and divergence in nats, averaged over steps, shape [2]."""
        import numpy as np

        truth = one_output(reference, self.output, lambda value: form_of(value) is not None, "distributions")
        assert truth is not None
        form = form_of(truth)
        if form is None:
            raise UserError(f"the output {self.output} has no distributions", "name another output, or take fidelity")
        answer = outputs[next(name for name, value in reference.items() if value is truth)]
        expected = log_probabilities(truth, form)
        entropy = -float((np.exp(expected) * expected).sum(axis=1).mean()) if truth.size else 0.0
        if answer.shape != truth.shape:
            return np.array([entropy, _LARGEST])
        if not truth.size:  # no step, and none to go wrong
            return np.zeros(2)
        divergence = float((np.exp(expected) * (expected - log_probabilities(answer, form))).sum(axis=1).mean())
        return np.array([entropy, min(_LARGEST, max(0.0, divergence))])

    def scores(self, rows: Rows) -> None:
        """Return None: the mean of logarithms is not the logarithm of a mean."""

    def value(self, rows: Rows) -> float:
        """Return the expected likelihood of a step."""
        return math.exp(-float(rows.sum(axis=1).mean()))

    def certified(self, rows: Rows) -> None:
        """Return None: no inequality bounds a likelihood without knowing what comes."""

    def estimated(self, rows: Rows) -> Losses:
        """The divergence, turned into a loss of likelihood."""
        likelihood = math.exp(-float(rows[:, 0].mean()))
        most = _UNSEEN * float(rows[:, 1].max(initial=0.0))
        return Losses(rows[:, 1], most, lambda divergence: likelihood * -math.expm1(-divergence))
