"""Agreement with the reference, for data without labels."""

from __future__ import annotations

__all__ = ["FidelityMetric"]

import dataclasses
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.evaluators._metric import Metric, one_output
from mopt.evaluators.fidelity import cosine, looks_like_scores
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_VECTORS = re.compile(r"embed|hidden|pool|feature|vector|latent|box|coord|point", re.IGNORECASE)
_CONSTANT = 1e-4
"""Share of the largest number within which all others are the same, but for rounding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FidelityMetric(Metric):
    """1 for a candidate that answers as the reference does; the output that agrees least counts.

    - Integers, strings and booleans agree or do not: the share that is equal.
    - Scores of classes, shape [1, C], agree when the highest is the same.
    - A single number agrees up to its squared difference over the variance of the reference, so that the mean over
      samples is the coefficient of determination. (Its cosine would be 1 whatever it is.) Where the reference always gives the
      same number, it is over that number's square: rounding would be far off beside no variance at all.
    - Everything else agrees by its cosine similarity.

    Attributes:
        classes: Whether outputs of shape [1, C] are scores of classes; ``auto`` says so unless their name speaks of
            vectors, or their length is one, as that of an embedding.
    """

    needs_labels: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    classes: Literal["auto", "yes", "no"] = "auto"

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return what agreed, shape [2 + 2 m].

        Whether it agrees or not rather than more or less, the lowest agreement of the larger outputs, and then each of
        the m single numbers with its reference.
        """
        import numpy as np

        if self.output:
            one_output(reference, self.output, lambda _: True, "")
            outputs, reference = {self.output: outputs[self.output]}, {self.output: reference[self.output]}
        single = [name for name, value in reference.items() if value.dtype.kind == "f" and value.size == 1]
        larger = [name for name in reference if name not in single]
        agreement = [self._agreement(name, outputs[name], reference[name]) for name in larger]
        decided = any(self._decided(name, reference[name]) for name in larger)
        numbers = [float(side[name].reshape(-1)[0]) for name in single for side in (outputs, reference)]
        return np.array([float(decided), min(agreement, default=1.0), *numbers])

    def scores(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the lowest agreement of each sample, shape [n]."""
        import numpy as np

        lowest: npt.NDArray[np.float64] = rows[:, 1]
        for answer, truth in zip(rows[:, 2::2].T, rows[:, 3::2].T, strict=True):
            error, spread = (answer - truth) ** 2, truth.var()
            if spread <= (_CONSTANT * np.abs(truth).max(initial=0.0)) ** 2:
                spread = (truth**2).mean()
            lowest = np.minimum(lowest, 1 - error / spread if spread else (error == 0).astype(np.float64))
        return lowest

    def decides(self, rows: npt.NDArray[np.float64]) -> bool:
        """Whether classes, integers or strings are compared."""
        return bool(rows[:, 0].any())

    def scale(self, rows: npt.NDArray[np.float64]) -> float:
        """Return 1, the agreement of the reference with itself."""
        return 1.0

    def _agreement(self, name: str, answer: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
        if answer.shape != truth.shape:
            return 0.0
        if truth.dtype.kind != "f":
            return float((answer == truth).mean()) if truth.size else 1.0
        if self._are_classes(name, truth):
            return float(answer.argmax() == truth.argmax())
        return cosine(answer, truth)

    def _decided(self, name: str, truth: npt.NDArray[Any]) -> bool:
        return truth.dtype.kind != "f" or self._are_classes(name, truth)

    def _are_classes(self, name: str, truth: npt.NDArray[Any]) -> bool:
        if self.classes != "auto":
            return self.classes == "yes" and looks_like_scores(truth, strict=False)
        return looks_like_scores(truth) and _VECTORS.search(name) is None
