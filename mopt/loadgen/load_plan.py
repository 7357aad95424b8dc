"""What a load test sends, and what must hold."""

from __future__ import annotations

__all__ = ["LoadPlan"]

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mopt.capacity.arrivals import Arrivals
from mopt.loadgen.find_rate import TEST_SECONDS, requests_for
from mopt.model.signature import Feed
from mopt.records.benchmark import LoadTest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class LoadPlan:
    """What is sent, and what must hold.

    Attributes:
        rate: Requests per second to test; None to test none.
        p99_ms: Limit for the p99 in ms; with it the largest rate that holds is looked for.
        arrivals: When requests arrive.
        seconds: About how long one load test takes.
        samples: Real inputs for a batch of one; None for the golden samples of the artifact.
        cores: What the replica, or the generator of the load, may use; None for all.
    """

    rate: float | None = None
    p99_ms: float | None = None
    arrivals: Arrivals = Arrivals()  # noqa: RUF009, it is frozen
    seconds: float = TEST_SECONDS
    samples: Sequence[Feed] | None = None
    cores: int | None = None

    @property
    def tests(self) -> bool:
        """Whether anything is to be tested."""
        return self.rate is not None or self.p99_ms is not None

    def moments(self, rate: float) -> npt.NDArray[np.float64]:
        """Return when the requests of one test are due, in ms; the same for the same rate."""
        import numpy as np

        return self.arrivals.times(rate, requests_for(rate, self.seconds), np.random.default_rng(round(rate * 1e3)))

    def holds(self, tests: Sequence[LoadTest]) -> bool | None:
        """Whether the rate holds within the p99; None where one of them was not given."""
        return tests[0].holds(self.p99_ms) if self.rate is not None and self.p99_ms is not None else None
