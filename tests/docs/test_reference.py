"""The generated pages are those that the code gives now; the one on environment variables has them all."""

import importlib.util
import re
import sys

import pytest

from tests.docs.pages import REPOSITORY

_SPEC = importlib.util.spec_from_file_location("generate_reference", REPOSITORY / "docs" / "generate_reference.py")
assert _SPEC is not None
assert _SPEC.loader is not None
generate_reference = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = generate_reference
_SPEC.loader.exec_module(generate_reference)


@pytest.mark.parametrize("name", list(generate_reference.PAGES))
def test_a_page_is_as_the_code_is(name: str) -> None:
    written = (REPOSITORY / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == generate_reference.PAGES[name](), "run: .venv/bin/python docs/generate_reference.py"


def test_every_environment_variable_of_its_own_is_described() -> None:
    page = (REPOSITORY / "docs" / "reference" / "environment-variables.md").read_text(encoding="utf-8")
    files = [path for folder in ("mopt", "tests", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")]
    read = {name for path in files for name in re.findall(r"environ\S*?[(\[]\"(MOPT_\w+)\"", path.read_text(encoding="utf-8"))}
    assert "MOPT_CACHE" in read
    assert {name for name in read if f"`{name}`" not in page} == set()
