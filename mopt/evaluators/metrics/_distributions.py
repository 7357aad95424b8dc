"""Probabilities of classes, whatever form an output gives them in."""

from __future__ import annotations

__all__ = ["Form", "class_axis", "form_of", "log_probabilities"]

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

Form = Literal["probabilities", "log-probabilities", "logits", "probability"]
"""``probability`` is a single number: that of the second of two classes."""

_SMALLEST = 1e-12
_SUM = 2e-3
"""What probabilities in a lower precision may sum up to besides 1."""


def class_axis(value: npt.NDArray[Any]) -> Rows:
    """Return class scores as shape [steps, classes]; a single number becomes the scores of two classes."""
    import numpy as np

    array = value.astype(np.float64)
    if array.size == 1:
        share = array.reshape(1)
        return np.stack([1 - share, share], axis=1)
    return array.reshape(-1, array.shape[-1])


def form_of(value: npt.NDArray[Any]) -> Form | None:
    """Return what the last axis of a floating-point output holds; None where it can be neither logits nor a probability."""
    import numpy as np

    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        return None
    array = value.astype(np.float64)
    if array.size == 1:
        return "probability" if 0 <= float(array.reshape(-1)[0]) <= 1 else None
    if array.ndim < 2 or array.shape[-1] < 2:
        return None
    steps = array.reshape(-1, array.shape[-1])
    if (steps >= 0).all() and (np.abs(steps.sum(axis=1) - 1) < _SUM).all():
        return "probabilities"
    if (steps <= 0).all() and (np.abs(np.exp(steps).sum(axis=1) - 1) < _SUM).all():
        return "log-probabilities"
    return "logits"


def log_probabilities(value: npt.NDArray[Any], form: Form, temperature: float = 1.0) -> Rows:
    """Return natural logarithms of probabilities, shape [steps, classes], at a temperature."""
    import numpy as np

    scores = class_axis(value)
    if form in ("probabilities", "probability"):
        scores = np.log(np.clip(scores, _SMALLEST, None))
    scores = (scores - scores.max(axis=1, keepdims=True)) / temperature
    logs: Rows = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return logs
