"""What the tests of readers share."""

from collections.abc import Callable

import numpy as np

from mopt.datasets.readers._base import Reader
from mopt.model.signature import TensorSpec

Opener = Callable[..., Reader]
X = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)
LABELS = np.arange(10) % 3
