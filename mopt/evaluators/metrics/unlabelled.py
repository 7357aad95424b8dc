"""The metric that fits the outputs, where nobody has labels."""

from __future__ import annotations

__all__ = ["Unlabelled"]

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from mopt.errors import UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.fidelity import looks_like_scores
from mopt.evaluators.metrics._distributions import form_of, log_probabilities
from mopt.evaluators.metrics.agreement import Agreement
from mopt.evaluators.metrics.cosine import Cosine
from mopt.evaluators.metrics.expected_accuracy import ExpectedAccuracy
from mopt.evaluators.metrics.expected_cer import ExpectedCer
from mopt.evaluators.metrics.expected_error import ExpectedError
from mopt.evaluators.metrics.expected_likelihood import ExpectedLikelihood
from mopt.evaluators.metrics.fidelity import FidelityMetric
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LOOKED_AT = 64
"""Answers of the reference that tell what its outputs are."""
_VECTORS = re.compile(r"embed|hidden|pool|feature|vector|latent", re.IGNORECASE)
_PLACES = re.compile(r"box|coord|point|mask|map|depth", re.IGNORECASE)
_CLASSES = re.compile(r"logit|score|prob|class|softmax", re.IGNORECASE)
_FLAT = 0.5
"""Mean probability of the best class below which the answer is the distribution rather than a class."""
_MANY = 10
"""Classes from which on a distribution may be flat."""
_BLANK = 0.5
"""Share of the steps whose best class is the same, and the first or the last: the blank of CTC."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unlabelled(Metric):
    """What ``auto`` takes without labels, by what the reference's outputs are.

    - One output with probabilities, log-probabilities or logits of classes: ``expected_accuracy``, also for each step of a
      sequence; ``expected_likelihood`` where no class is likely, as in a language model; ``expected_cer`` for text recognisers.
    - Integers or strings: ``agreement``.
    - Embeddings: ``cosine``.
    - Numbers, boxes and maps: ``expected_error``.
    - Several of these: ``fidelity``.

    Attributes:
        known_accuracy: For ``expected_accuracy``.
    """

    needs_labels: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    known_accuracy: Annotated[float | None, pydantic.Field(gt=0, lt=1)] = None

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return the rows of the metric that fits this answer of the reference."""
        return self.choose([reference])[0].rows(outputs, label, reference)

    def choose(self, answers: Iterable[Feed]) -> tuple[Metric, str]:
        """Return the metric that fits the answers of the reference, and why.

        Raises:
            UserError: When the accuracy is known and no output tells classes.
        """
        looked = list(itertools.islice(answers, _LOOKED_AT))
        names = [self.output] if self.output else list(looked[0])
        metric, because = _choose({name: [answer[name] for answer in looked] for name in names})
        if self.known_accuracy is not None:
            if not isinstance(metric, ExpectedAccuracy):
                raise UserError(
                    f"an accuracy is known, and {because}", "leave known_accuracy out, or name the metric and output"
                )
            metric = dataclasses.replace(metric, known_accuracy=self.known_accuracy)
        return metric, because


def _choose(outputs: Mapping[str, Sequence[npt.NDArray[Any]]]) -> tuple[Metric, str]:
    kinds = {name: _kind(name, values) for name, values in outputs.items()}
    scores = [name for name, kind in kinds.items() if kind in _DISTRIBUTIONS]
    answers = [name for name, kind in kinds.items() if kind == "answers"]
    rest = [name for name in kinds if name not in (*scores, *answers)]
    if len(scores) == 1 and not rest:
        return _for_classes(scores[0], kinds[scores[0]], outputs[scores[0]])
    if answers and not scores and not rest:
        return Agreement(), f"{', '.join(answers)} holds integers or strings"
    if len(rest) == 1 and not scores and not answers:
        name = rest[0]
        if kinds[name] == "embeddings":
            return Cosine(output=name), f"{name} holds embeddings"
        return ExpectedError(output=name), f"{name} holds {kinds[name]}"
    what = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
    return FidelityMetric(), f"there are several outputs ({what})"


_DISTRIBUTIONS = ("probabilities", "log-probabilities", "logits", "probability")


def _kind(name: str, values: Sequence[npt.NDArray[Any]]) -> str:
    """Say what an output holds: a form of a distribution, or in words for people."""
    if values[0].dtype.kind != "f":
        return "answers"
    forms = {form_of(value) for value in values}
    if len(forms) == 1 and (form := next(iter(forms))) in ("probabilities", "log-probabilities", "probability"):
        return str(form)
    if _VECTORS.search(name) or (values[0].ndim == 2 and values[0].size > 1 and not all(map(looks_like_scores, values))):
        return "embeddings"
    if _PLACES.search(name):
        return "places"
    steps = values[0].ndim == 3 and _CLASSES.search(name) is not None
    return "logits" if all(map(looks_like_scores, values)) or steps else "numbers"


def _for_classes(name: str, kind: str, values: Sequence[npt.NDArray[Any]]) -> tuple[Metric, str]:
    import numpy as np

    form: Any = kind
    logs = np.concatenate([log_probabilities(value, form) for value in values])
    taken = {"logits": f"{name} is taken for logits of classes", "probability": f"{name} is one probability"}
    because = taken.get(kind, f"{name} holds {kind} of classes")
    if values[0].ndim == 3 and 1 in values[0].shape[:2] and (blank := _blank(logs.argmax(axis=1), logs.shape[1])) is not None:
        return ExpectedCer(output=name, blank=blank), f"{because}, step by step with a blank"
    if logs.shape[1] >= _MANY and float(np.exp(logs.max(axis=1)).mean()) < _FLAT:
        return ExpectedLikelihood(output=name), f"{because}, and none of them is likely"
    return ExpectedAccuracy(output=name), because


def _blank(best: npt.NDArray[np.int64], classes: int) -> int | None:
    """Return the class that most steps answer, where it is the first or the last of many."""
    for blank in (0, classes - 1):
        if classes >= _MANY and float((best == blank).mean()) >= _BLANK and len(set(best.tolist())) > 2:
            return 0 if blank == 0 else -1
    return None
