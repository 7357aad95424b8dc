from pathlib import Path
from typing import Any

import pytest

from mopt.datasets.readers._base import Reader
from mopt.datasets.spec import DataSpec
from mopt.model.signature import TensorSpec
from mopt.system import plugins
from tests.datasets.readers.cases import Opener, X


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    def open_it(path: Path, *inputs: TensorSpec, **values: Any) -> Reader:
        scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        kinds = [plugins.load("readers", name) for name in plugins.names("readers")]
        (kind,) = [kind for kind in kinds if kind.matches(path)]
        reader: Reader = kind(path, DataSpec(path=str(path), **values), inputs or (X,), scratch)
        return reader

    return open_it
