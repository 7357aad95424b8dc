"""Predicted and true numbers, side by side."""

from __future__ import annotations

__all__ = ["prediction_and_truth", "share_of_spread", "sides"]

from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.evaluators._metric import one_output
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]


def prediction_and_truth(outputs: Feed, output: str, label: Any) -> Rows:
    """Return the m predicted numbers and then the m true ones, shape [2 m].

    Raises:
        UserError: When no output has numbers, several have, or there are not as many as in the label.
    """
    import numpy as np

    prediction = one_output(outputs, output, lambda value: value.dtype.kind == "f", "floating-point numbers")
    assert prediction is not None
    try:
        truth = np.asarray(label, dtype=np.float64).reshape(-1)
    except ValueError:
        raise UserError(f"the label {str(label)[:60]!r} is no number", "take a metric for classes, or fidelity") from None
    if prediction.size != truth.size:
        raise UserError(
            f"the output has {prediction.size} numbers and the label {truth.size}",
            "name the output in metric_options: output, or take fidelity",
        )
    return np.concatenate([prediction.reshape(-1).astype(np.float64), truth])


def sides(rows: Rows) -> tuple[Rows, Rows]:
    """Return predictions and truths, each of shape [n, m]."""
    half = rows.shape[1] // 2
    return rows[:, :half], rows[:, half:]


def share_of_spread(rows: Rows, power: int) -> float:
    """Return the error of a model that is ten times better than always answering the median.

    A relative tolerance of an error that is nearly zero would allow nothing; it never refers to less than this.
    """
    import numpy as np

    truth = sides(rows)[1]
    return float(np.mean(np.abs(truth - np.median(truth, axis=0)) ** power) / 10**power)
