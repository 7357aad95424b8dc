"""What every search space is: candidates for a model on a target."""

from __future__ import annotations

__all__ = ["GraphTraits", "SearchSpace", "SpaceInputs"]

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mopt.model.samples import Samples
from mopt.model.signature import Signature
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.profiles.target import Target
from mopt.search.trial import Candidate


@dataclasses.dataclass(frozen=True)
class GraphTraits:
    """What of a model decides which candidates make sense.

    Attributes:
        convolutions: Number of convolutions.
        constant_products: Number of matrix products with constant weights.
        free_products: Number of matrix products of two activations, the mark of attention.
        recurrent: Number of LSTM, GRU and RNN operators.
        other: Number of all other operators.
    """

    convolutions: int
    constant_products: int
    free_products: int
    recurrent: int
    other: int

    @property
    def transformer(self) -> bool:
        """Whether attention is what it computes."""
        return self.free_products >= 2 and self.constant_products > self.convolutions

    @property
    def arithmetic(self) -> int:
        """Operators that a lower precision could speed up."""
        return self.convolutions + self.constant_products + self.recurrent


@dataclasses.dataclass(frozen=True)
class SpaceInputs:
    """What candidates are made from.

    Attributes:
        traits: Of the model.
        target: Where it will run.
        calibration: Real samples.
        threads: For one inference.
        engine: How TensorRT engines are built; None for a target without.
        signature: Of the model, where it is known.
        served: Runtimes that all serving systems run that are named; none where none is named. What nobody would choose but for
            its server is tried for that server alone.
    """

    traits: GraphTraits
    target: Target
    calibration: Samples
    threads: int
    engine: BuildTensorrt | None = None
    served: frozenset[str] = frozenset()
    signature: Signature | None = None


class SearchSpace(abc.ABC):
    """The candidates of one family of runtimes.

    Those whose runtime is not for the target's device are left out whatever a space yields, so that it asks the target only
    for what it depends on besides.
    """

    rank: ClassVar[int] = 100
    """Families of a lower rank come first: what is compiled before the time budget ends, and wins where nothing is timed."""

    @abc.abstractmethod
    def candidates(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        """Yield candidates, the likeliest winners first."""

    def smaller(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        """Yield what makes a model smaller and seldom faster: tried for the objective ``size``, or by name."""
        yield from ()

    def defaults(self, inputs: SpaceInputs) -> Mapping[str, Mapping[str, Any]]:
        """Return options that follow from model and target, by name of the pass or runtime.

        The family's own candidates have them, and a recipe's get them where it does not say otherwise.
        """
        return {}
