"""What every space keeps to."""

from pathlib import Path

import pytest

from mopt.system import plugins
from tests.search.language.spaces.inputs import space_inputs


@pytest.mark.parametrize("name", plugins.names("language_spaces"))
def test_the_unquantized_model_comes_first_and_formats_follow_each_other(name: str, tmp_path: Path) -> None:
    candidates = list(plugins.load("language_spaces", name)().candidates(space_inputs(tmp_path)))
    assert candidates[0].unquantized
    assert all(candidate.name.startswith(f"{name}-") for candidate in candidates)
    for candidate in candidates:
        candidate.check("huggingface")
