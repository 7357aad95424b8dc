"""How good outputs are, by the same yardstick for every model; 1 is perfect and written without mopt's metrics."""

from __future__ import annotations

__all__ = ["score"]

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Outputs = Sequence[dict[str, np.ndarray]]
"""Outputs by name for each sample, batch axis of length 1 included."""


def score(kind: str, outputs: Outputs, labels: Sequence[Any], reference: Outputs, model: Path) -> float:
    """Return the score of a model.

    Args:
        kind: ``accuracy``, ``cer`` (one minus the character error rate), ``decision`` (a probability against a label),
            ``overlap`` (intersection over union with the reference's pixels) or ``fidelity`` (cosine similarity).
        outputs: Of the model.
        labels: What is true, where it is known.
        reference: Outputs of ONNX Runtime in FP32.
        model: The FP32 ONNX file; a recogniser carries its characters in there.
    """
    return _KINDS[kind](outputs, labels, reference, model)


def _first(sample: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(sample.values()))


def _accuracy(outputs: Outputs, labels: Sequence[Any], _: Outputs, __: Path) -> float:
    return float(np.mean([_class(_first(sample)) == label for sample, label in zip(outputs, labels, strict=True)]))


def _class(values: np.ndarray) -> int:
    return int(values.ravel()[0]) if values.dtype.kind in "iu" else int(values.argmax())


def _decision(outputs: Outputs, labels: Sequence[Any], _: Outputs, __: Path) -> float:
    answers = [float(_first(sample).ravel()[0]) > 0.5 for sample in outputs]
    return float(np.mean([answer == bool(label) for answer, label in zip(answers, labels, strict=True)]))


def _cer(outputs: Outputs, labels: Sequence[Any], _: Outputs, model: Path) -> float:
    characters = _characters(model)
    pairs = [(_decode(_first(sample), characters), str(label)) for sample, label in zip(outputs, labels, strict=True)]
    return 1 - sum(_distance(*pair) for pair in pairs) / sum(len(label) for _, label in pairs)


def _characters(model: Path) -> list[str]:
    import onnx

    (text,) = (entry.value for entry in onnx.load(str(model), load_external_data=False).metadata_props)
    return ["", *text.splitlines(), " "]


def _decode(values: np.ndarray, characters: Sequence[str]) -> str:
    """Greedy CTC: the best class at each step, repeats merged, blanks (class 0) dropped; shape [1, steps, classes]."""
    best = values[0].argmax(-1)
    kept = best[np.concatenate([[True], best[1:] != best[:-1]])]
    return "".join(characters[index] for index in kept)


def _distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def _overlap(outputs: Outputs, _: Sequence[Any], reference: Outputs, __: Path) -> float:
    shares = []
    for sample, expected in zip(outputs, reference, strict=True):
        found, truth = _first(sample) > 0.3, _first(expected) > 0.3  # the threshold of PP-OCR's detector
        union = int((found | truth).sum())
        shares.append(int((found & truth).sum()) / union if union else 1.0)
    return float(np.mean(shares))


def _fidelity(outputs: Outputs, _: Sequence[Any], reference: Outputs, __: Path) -> float:
    return float(np.mean([_cosine(_first(a), _first(b)) for a, b in zip(outputs, reference, strict=True)]))


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


_KINDS: dict[str, Callable[[Outputs, Sequence[Any], Outputs, Path], float]] = {
    "accuracy": _accuracy,
    "cer": _cer,
    "decision": _decision,
    "overlap": _overlap,
    "fidelity": _fidelity,
}
