"""``tests`` mirrors ``mopt``: where the tests of a module are, and what a test is of, needs no search."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent / "mopt"

ELSEWHERE = {
    "__main__.py": ("cli/test_root.py", "every command line in it starts with python -m mopt"),
    "artifacts/serving/_base.py": ("artifacts/serving/test_contract.py", "it is what every serving system keeps to"),
    "profiles/server.py": ("capacity/test_service_times.py", "it holds three arrays, for what is fitted to them"),
    "search/task.py": ("search/test_driver.py", "it holds what a search is asked, and the search is all that reads it"),
}
"""Modules without a test file of their name: the one that covers them, and why."""

TOPICS = {
    "artifacts/serving/test_triton_server.py": "the real tritonserver, on what was written for it",
    "cli/test_root.py": "mopt without a command: help, versions, completion, mistakes",
    "runtimes/test_gpu.py": "both runtimes on a GPU, where there is one",
    "system/test_other_packages.py": "plugins that another package brings: names, keys, mistakes",
    "test_extras.py": "what each extra installs",
    "test_mirror.py": "this",
    "test_models.py": "real models from the source to the artifact",
    "workflows/test_other_packages.py": "a build with what another package brings",
    "workflows/test_without_sizing.py": "all workflows without Numba",
}
"""Test files that are of no one module, and what they are of. ``test_contract.py`` is of all plugins of its folder."""

ROOMS_OF_THEIR_OWN = ("ci", "docs")
"""Folders of tests of what lies outside ``mopt``."""


def _modules() -> list[str]:
    names = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if path.name != "__init__.py")
    return sorted(names)


def _test_of(module: str) -> str:
    path = Path(module)
    return (path.parent / f"test_{path.name.lstrip('_')}").as_posix()


@pytest.mark.parametrize("module", _modules())
def test_a_module_has_a_test_file_or_a_reason(module: str) -> None:
    name = _test_of(module)
    if module in ELSEWHERE:
        covering, reason = ELSEWHERE[module]
        assert (TESTS / covering).is_file()
        assert reason
        assert not (TESTS / name).exists(), f"it has a test file: take {module} out of ELSEWHERE"
    else:
        assert (TESTS / name).is_file(), f"write tests/{name}"
        assert "def test_" in (TESTS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")))
def test_a_test_file_has_a_module_or_a_topic(name: str) -> None:
    room, _, file = name.rpartition("/")
    if room.partition("/")[0] in ROOMS_OF_THEIR_OWN:
        return
    if file == "test_contract.py":
        assert (ROOT / room).is_dir()
        return
    modules = {_test_of(module) for module in _modules()}
    assert (name in modules) != (name in TOPICS), f"tests/{name} is of no module of mopt/{room}, or of one and in TOPICS too"


def test_the_tables_are_short_and_name_nothing_that_is_gone() -> None:
    assert len(ELSEWHERE) < 15
    assert set(ELSEWHERE) <= set(_modules())
    assert all((TESTS / name).is_file() for name in TOPICS)
    assert all((TESTS / room).is_dir() for room in ROOMS_OF_THEIR_OWN)
