"""Numbers that are taken of each sample, for distributions of numbers can be kept and compared, and those of tensors cannot."""

from __future__ import annotations

__all__ = ["Extractor", "FeatureKey", "frequent_values"]

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mopt.model.signature import Feed, Signature, TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_SINGLE = 64
"""Up to so many elements each one is a number of its own, as the columns of a table are."""
_SINGLE_WHOLE = 16
"""The same for whole numbers, more of which are rather tokens."""
_CHANNELS = (3, 4)
_PICTURE_RANK = 4
_FREQUENT = 256
"""Whole numbers of an input that are kept as usual ones."""
_SUM_TOLERANCE = 1e-3


class FeatureKey(NamedTuple):
    """What a number is taken of."""

    role: Literal["input", "output"]
    tensor: str
    name: str


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Takes the same numbers of each sample, whatever is in it: which ones follows from the signature alone.

    Attributes:
        signature: Of the model.
        class_scores: Outputs that hold a score for each class.
        vocabularies: By input its usual whole numbers.
    """

    signature: Signature
    class_scores: tuple[str, ...] = ()
    vocabularies: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def inputs(self, feed: Feed) -> dict[FeatureKey, float]:
        """Return the numbers of a single sample's inputs, batch axis included."""
        return self._all("input", self.signature.inputs, feed)

    def outputs(self, feed: Feed) -> dict[FeatureKey, float]:
        """Return the numbers of what the model made of a single sample."""
        return self._all("output", self.signature.outputs, feed)

    def _all(self, role: Literal["input", "output"], specs: Iterable[TensorSpec], feed: Feed) -> dict[FeatureKey, float]:
        features: dict[FeatureKey, float] = {}
        for spec in specs:
            if role == "output" and spec.name in self.class_scores:
                pairs = _of_scores(feed[spec.name])
            else:
                pairs = _of_tensor(spec, feed[spec.name], self.signature.batch_axes.get(spec.name), self.vocabularies)
            features |= {FeatureKey(role, spec.name, name): float(value) for name, value in pairs}
        return features


def frequent_values(signature: Signature, feeds: Iterable[Feed]) -> dict[str, tuple[int, ...]]:
    """Return the most frequent whole numbers of each input that holds many, such as token numbers."""
    counts = {
        spec.name: collections.Counter[int]()
        for spec in signature.inputs
        if _is_whole(spec) and not _is_apart(spec, signature.batch_axes.get(spec.name))
    }
    for feed in feeds:
        for name, counter in counts.items():
            counter.update(feed[name].ravel().tolist())
    return {name: tuple(sorted(value for value, _ in counter.most_common(_FREQUENT))) for name, counter in counts.items()}


def _is_whole(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("int", "uint"))


def _is_apart(spec: TensorSpec, axis: int | None) -> bool:
    """Whether each element of a sample is a number of its own."""
    sizes = [size for index, size in enumerate(spec.shape) if index != axis]
    fixed = [size for size in sizes if isinstance(size, int)]
    most = _SINGLE_WHOLE if _is_whole(spec) else _SINGLE
    return len(fixed) == len(sizes) and 1 <= math.prod(fixed) <= most


def _of_tensor(
    spec: TensorSpec, array: npt.NDArray[Any], axis: int | None, vocabularies: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, float]]:
    import numpy as np

    for index, size in enumerate(spec.shape[: array.ndim]):  # a runtime may give another rank than the graph declares
        if isinstance(size, str) and index != axis:
            yield f"length of axis {index}", array.shape[index]
    if spec.dtype == "str":
        yield "length of the text", sum(len(str(item)) for item in array.ravel()) / max(1, array.size)
        return
    values = array.ravel()
    if values.dtype.kind not in "biuf":  # a type of ml_dtypes, which lacks most functions of NumPy
        values = values.astype(np.float32)
    if _is_apart(spec, axis) and 1 <= values.size <= _SINGLE:
        yield from ((f"value[{index}]" if values.size > 1 else "value", value) for index, value in enumerate(values.tolist()))
        return
    yield from _summary(values)
    yield from _channels(spec, array, axis)
    if spec.name in vocabularies:
        yield "share of unusual values", 1 - float(np.isin(values, vocabularies[spec.name]).mean()) if values.size else 0.0


def _summary(values: npt.NDArray[Any]) -> Iterator[tuple[str, float]]:
    """Mean, spread and so on of the elements of one sample; NaN where there are none."""
    import numpy as np

    kept = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    yield "mean", kept.mean(dtype=np.float64) if kept.size else math.nan
    if values.dtype.kind == "b":
        return
    yield "standard deviation", kept.std(dtype=np.float64) if kept.size else math.nan
    yield "share of zeros", 1 - np.count_nonzero(values) / values.size if values.size else math.nan
    if values.dtype.kind == "f":
        yield "least", kept.min() if kept.size else math.nan
        yield "greatest", kept.max() if kept.size else math.nan
        yield "share that is not finite", 1 - kept.size / values.size if values.size else 0.0


def _channels(spec: TensorSpec, array: npt.NDArray[Any], axis: int | None) -> Iterator[tuple[str, float]]:
    """The mean of each colour of a picture: exchanged channels change nothing else."""
    if len(spec.shape) != _PICTURE_RANK or axis not in (None, 0) or array.ndim != _PICTURE_RANK or not array.size:
        return
    place = next((index for index in (1, 3) if spec.shape[index] in _CHANNELS), None)
    if place is not None:
        for channel in range(array.shape[place]):
            yield f"mean of channel {channel}", array.take(channel, axis=place).astype("float64").mean()


def _of_scores(scores: npt.NDArray[Any]) -> Iterator[tuple[str, float]]:
    """The class with the highest score, and its probability: softmax, unless the scores are probabilities already."""
    import numpy as np

    row = scores.ravel().astype(np.float64)
    yield "predicted class", float(row.argmax())
    with np.errstate(invalid="ignore"):  # what is not finite gives a NaN, which is counted as such
        if row.min() < 0 or abs(row.sum() - 1) > _SUM_TOLERANCE:
            row = np.exp(row - row.max())
            row = row / row.sum()
    yield "top probability", row.max()
