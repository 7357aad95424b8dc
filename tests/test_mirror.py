"""``tests`` mirrors ``mopt``: where the tests of a module are, and what a test is of, needs no search."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent / "mopt"

_SERVED = "only a server's own Python can import it"
ELSEWHERE = {
    "__main__.py": ("cli/test_root.py", "every command line in it starts with python -m mopt"),
    "artifacts/serving/_files/bentoml_service.py": ("artifacts/serving/test_python_servers.py", _SERVED),
    "artifacts/serving/_files/litserve_service.py": ("artifacts/serving/test_python_servers.py", _SERVED),
    "artifacts/serving/_files/mlserver_runtime.py": ("artifacts/serving/test_python_servers.py", _SERVED),
    "artifacts/serving/_files/ray_serve_app.py": ("artifacts/serving/test_python_servers.py", _SERVED),
    "artifacts/serving/_files/served_metrics.py": ("artifacts/monitoring/test_real_metrics.py", _SERVED),
    "artifacts/serving/_files/torchserve_handler.py": ("artifacts/serving/test_python_servers.py", _SERVED),
    "artifacts/serving/_files/v2_routes.py": ("artifacts/serving/test_python_servers.py", _SERVED),
    "artifacts/serving/_files/vllm_options_check.py": ("artifacts/serving/language/test_vllm.py", _SERVED),
    "artifacts/serving/_base.py": ("artifacts/serving/test_contract.py", "it is what every serving system keeps to"),
    "artifacts/serving/_triton_config.py": (
        "artifacts/serving/test_triton.py",
        "NVIDIA's schema reads it as a part of the whole",
    ),
    "artifacts/serving/_triton_plan.py": ("artifacts/serving/test_triton.py", "a plan is what config.pbtxt says in the end"),
    "profiles/server.py": ("capacity/test_service_times.py", "it holds three arrays, for what is fitted to them"),
    "search/task.py": ("search/test_driver.py", "it holds what a search is asked, and the search is all that reads it"),
}
"""Modules without a test file of their name: the one that covers them, and why."""

TOPICS = {
    "artifacts/serving/test_python_servers.py": "the real servers of the services in Python, on what was written for them",
    "artifacts/monitoring/test_real_metrics.py": "what real servers export, against the names that the rules use",
    "artifacts/serving/test_served_precision.py": "OpenVINO's candidates in the real tritonserver, and what they compute in",
    "cli/test_root.py": "mopt without a command: help, versions, completion, mistakes",
    "runtimes/test_gpu.py": "both runtimes on a GPU, where there is one",
    "system/test_other_packages.py": "plugins that another package brings: names, keys, mistakes",
    "test_conformance.py": "ONNX's own node models through a build",
    "test_extras.py": "what each extra installs",
    "test_mirror.py": "this",
    "test_models.py": "real models from the source to the artifact",
    "workflows/test_never_stuck.py": "each kind of child made to hang: noticed, told, survived or recorded",
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


def test_a_module_has_a_test_file_or_a_reason() -> None:
    lacking = [f"tests/{name}" for module in _modules() if module not in ELSEWHERE and not _tests(name := _test_of(module))]
    assert not lacking, "write these, or say in ELSEWHERE where the tests of the module are"
    both = [module for module in ELSEWHERE if _tests(_test_of(module))]
    assert not both, "these have a test file: take them out of ELSEWHERE"
    assert all(_tests(covering) and reason for covering, reason in ELSEWHERE.values())


def _tests(name: str) -> bool:
    """Whether there is such a file, with a test in it."""
    path = TESTS / name
    return path.is_file() and "def test_" in path.read_text(encoding="utf-8")


def test_a_test_file_has_a_module_or_a_topic() -> None:
    modules = {_test_of(module) for module in _modules()}
    strays = [name for name in _test_files() if name not in modules and name not in TOPICS and not _of_a_folder(name)]
    assert not strays, "these are of no module of mopt: move them, or say in TOPICS what they are of"
    assert not modules & TOPICS.keys(), "these are of a module: take them out of TOPICS"


def _test_files() -> list[str]:
    return sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py"))


def _of_a_folder(name: str) -> bool:
    """Whether it is of what lies outside ``mopt``, or of all plugins of a folder."""
    room, _, file = name.rpartition("/")
    return room.partition("/")[0] in ROOMS_OF_THEIR_OWN or (file == "test_contract.py" and (ROOT / room).is_dir())


def test_the_tables_are_short_and_name_nothing_that_is_gone() -> None:
    assert len(ELSEWHERE) < 15
    assert set(ELSEWHERE) <= set(_modules())
    assert all((TESTS / name).is_file() for name in TOPICS)
    assert all((TESTS / room).is_dir() for room in ROOMS_OF_THEIR_OWN)
