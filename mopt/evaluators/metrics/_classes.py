"""Which class a model answered, and which is right."""

from __future__ import annotations

__all__ = ["answer_and_truth", "class_scores", "label_columns", "label_number"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.evaluators._metric import one_output
from mopt.model.samples import PartialLabel
from mopt.model.signature import Feed
from mopt.system.plugins import nearest

if TYPE_CHECKING:
    import numpy.typing as npt


def answer_and_truth(outputs: Feed, output: str, label: Any, classes: Sequence[str]) -> tuple[int | str, int | str]:
    """Return the class that was answered and the label, both numbers or both strings.

    The answer is what an output says (an integer or a string, as scikit-learn's ``label``), else the position of the
    highest class score.

    Args:
        outputs: Of one sample.
        output: Name of the output; empty for the only one that fits.
        label: Number or name of the right class.
        classes: Names of the classes in order, to translate between the two.

    Raises:
        UserError: When no output tells a class, or the label is none.
    """
    truth = label if isinstance(label, str) else label_number(label)
    stated = _stated_class(outputs, output, isinstance(truth, str))
    answer = stated if stated is not None else _highest(class_scores(outputs, output), truth)
    if isinstance(answer, str) and isinstance(truth, int):
        return _number(answer, classes), truth
    if isinstance(truth, str) and isinstance(answer, int):
        return answer, _number(truth, classes)
    return answer, truth


def label_columns(outputs: Feed, reference: Feed, label: Any, output: str, classes: Sequence[str]) -> list[float]:
    """Return whether there is a label, its stratum, and whether the candidate's and the reference's answer are right."""
    if not isinstance(label, PartialLabel):
        return [0.0, 0.0, 0.0, 0.0]
    if label.label is None:
        return [0.0, label.stratum, 0.0, 0.0]
    right = []
    for side in (outputs, reference):
        looked_at = "" if isinstance(label.label, str) and not classes else output
        answer, truth = answer_and_truth(side, looked_at, label.label, classes)
        right.append(float(answer == truth))
    return [1.0, label.stratum, *right]


def _highest(scores: npt.NDArray[Any], truth: int | str) -> int:
    if isinstance(truth, int) and not 0 <= truth < scores.size:
        raise UserError(f"the label {truth} is none of the {scores.size} classes", "number the classes from 0")
    return int(scores.argmax())


def label_number(label: Any) -> int:
    """Return a label as the number of a class.

    Raises:
        UserError: When it is none.
    """
    value = label[0] if isinstance(label, list) and len(label) == 1 else label
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise UserError(f"the label {str(label)[:60]!r} is no class", "give the number of the class, or take another metric")


def class_scores(outputs: Feed, output: str) -> npt.NDArray[Any]:
    """Return one score for each class, shape [C].

    Raises:
        UserError: When no output has them, or several have.
    """
    scores = one_output(outputs, output, _are_scores, "scores of classes")
    assert scores is not None
    if not _are_scores(scores):
        raise UserError(f"the output {output} has no scores of classes: {list(scores.shape)}", "name another output")
    return scores.reshape(-1)


def _are_scores(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind == "f" and value.size > 1 and value.size == value.shape[-1]


def _stated_class(outputs: Feed, output: str, words: bool) -> int | str | None:
    if output in outputs:
        answer: npt.NDArray[Any] | None = outputs[output]
        kinds = "OUSiu"
    else:
        kinds = "OUS" if words else "iu"
        answer = one_output(outputs, output, lambda value: _tells(value, kinds), "a class", optional=True)
    if answer is None or not _tells(answer, kinds):
        return None
    cell = answer.reshape(-1)[0]
    return int(cell) if answer.dtype.kind in "iu" else str(cell)


def _tells(value: npt.NDArray[Any], kinds: str) -> bool:
    return value.size == 1 and value.dtype.kind in kinds


def _number(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        hint = nearest(name, classes) if classes else "give their names in order in metric_options: classes"
        raise UserError(f"which number has the class {name}?", hint)
    return list(classes).index(name)
