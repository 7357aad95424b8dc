"""What a gate of language models refuses before any work."""

from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.recipe import make_recipe
from mopt.workflows.language.gate import run_language_gate


@pytest.mark.parametrize(
    ("limits", "message"), [({"p99": "+5%"}, "nothing is called p99"), ({"decode": "much"}, "is no share")]
)
def test_limits_that_language_models_do_not_have(limits: dict[str, str], message: str, tmp_path: Path) -> None:
    recipe = make_recipe({"model": "m", "data": "texts", "gate": {"limits": limits}})
    with pytest.raises(UserError, match=message):
        run_language_gate(tmp_path, tmp_path, recipe)
