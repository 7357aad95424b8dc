"""Character error rate of a text recogniser, after greedy CTC decoding."""

from __future__ import annotations

__all__ = ["Cer"]

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import UserError
from mopt.evaluators._metric import Metric, one_output
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cer(Metric):
    """Insertions, deletions and substitutions for each character of the labels.

    Decoding: Graves et al. 2006, "Connectionist Temporal Classification", section 3.2 (best path): the highest class of
    each step, repetitions merged, blanks dropped.

    Attributes:
        charset: The characters, in the order of the classes, without the blank. A class behind the last is the space.
        blank: Class of the blank.
    """

    higher_is_better: ClassVar[bool] = False
    charset: tuple[str, ...] = ()
    blank: int = 0

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return the number of edits and of characters, shape [2]."""
        import numpy as np

        if not isinstance(label, str):
            raise UserError(f"the label {label!r} is no text", "cer compares with the text that is in the picture")
        return np.array([float(edit_distance(self.decode(outputs), label)), float(len(label))])

    def decode(self, outputs: Feed) -> str:
        """Return the text that the scores, shape [1, T, C] or [T, 1, C], mean.

        Raises:
            UserError: When there are no such scores, or no charset.
        """
        scores = one_output(outputs, self.output, _are_steps, "scores of characters")
        assert scores is not None
        if not self.charset:
            raise UserError("cer does not know which character each class is", "give them in order in metric_options: charset")
        best = scores.reshape(-1, scores.shape[-1]).argmax(axis=1).tolist()
        return "".join(self._character(step) for step, _ in itertools.groupby(best) if step != self.blank)

    def _character(self, step: int) -> str:
        position = step - (step > self.blank)
        return self.charset[position] if position < len(self.charset) else " "

    def decides(self, rows: npt.NDArray[np.float64]) -> bool:
        """Yes: a character is right or wrong."""
        return True

    def scores(self, rows: npt.NDArray[np.float64]) -> None:
        """Return None: long texts count more than short ones."""

    def value(self, rows: npt.NDArray[np.float64]) -> float:
        """Return edits over characters."""
        edits, characters = rows.sum(axis=0)
        return float(edits / characters) if characters else float("nan")

    def scale(self, rows: npt.NDArray[np.float64]) -> float:
        """Return the share of right characters, or the error where it is larger: 1 % of no error allows nothing."""
        value = self.value(rows)
        return max(value, 1 - value)


def _are_steps(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind == "f" and value.ndim == 3 and 1 in value.shape[:2]


def edit_distance(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return the Levenshtein distance."""
    previous = list(range(len(right) + 1))
    for row, left_character in enumerate(left, 1):
        current = [row]
        for column, right_character in enumerate(right, 1):
            current.append(
                min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (left_character != right_character))
            )
        previous = current
    return previous[-1]
