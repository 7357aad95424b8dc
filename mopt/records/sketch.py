"""What the artifact keeps of the samples that it was calibrated and judged with: figures, and no sample."""

from __future__ import annotations

__all__ = ["FeatureSketch", "Sketch"]

import itertools
from typing import Literal

from mopt.records._base import Record


class FeatureSketch(Record):
    """The distribution of one number that is taken of every sample, such as the mean of a picture or the length of a text."""

    role: Literal["input", "output"]
    tensor: str
    name: str
    """What is taken of the tensor: ``value``, ``value[3]``, ``mean``, ``length of axis 1``, ``predicted class`` and so on."""
    count: int
    """Samples, each with one number."""
    zeros: float
    """Share of the samples whose number is 0."""
    missing: float
    """Share of the samples whose number is NaN."""
    mean: float
    """Of what is finite, like the next three."""
    variance: float
    least: float
    greatest: float
    edges: tuple[float, ...]
    """Order statistics, ascending: between them lie the bins in which requests are counted. NaN is kept as infinity."""
    ties: tuple[float, ...]
    """By edge a random number, 0 to 1: which of the equal values are below it."""
    ranks: tuple[int, ...]
    """By edge its rank among the samples, from 1 on."""
    categories: dict[str, int] = {}
    """How often each value occurs, where they are few whole numbers."""

    @property
    def weights(self) -> tuple[int, ...]:
        """Ranks between neighbouring edges, from 0 to count + 1: bin by bin the parameters of a Dirichlet distribution."""
        ranks = (0, *self.ranks, self.count + 1)
        return tuple(after - before for before, after in itertools.pairwise(ranks))


class Sketch(Record):
    """``sketch.json``: what requests are compared with."""

    schema_version: Literal[1] = 1
    samples: int
    """Of the inputs; outputs may be of fewer."""
    class_scores: tuple[str, ...]
    """Outputs of which the class and its probability are taken, and not the numbers themselves."""
    vocabularies: dict[str, tuple[int, ...]]
    """By input the whole numbers that were most frequent in other samples than those that are counted."""
    features: tuple[FeatureSketch, ...]
