"""What was seen of a running server under load."""

from __future__ import annotations

__all__ = ["ServerObservation"]

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ServerObservation:
    """What was seen of a server at one time.

    Attributes:
        ends_ms: When one full batch after the other was answered, while more waited than the server takes.
        arrivals_ms: When the requests of a moderate load were due.
        latency_ms: What each of them took.
    """

    ends_ms: Floats
    arrivals_ms: Floats
    latency_ms: Floats
