from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.model.samples import Sample, Samples, write_samples
from tests.evaluators.metrics.cases import Maker


@pytest.fixture
def samples(tmp_path: Path) -> Maker:
    def make(labels: list[Any] | None) -> Samples:
        folder = tmp_path / f"samples-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        feeds = (Sample({"x": np.zeros((1, 1), np.float32)}, label, str(i)) for i, label in enumerate(labels or [None] * 3))
        return write_samples(folder, feeds)

    return make
