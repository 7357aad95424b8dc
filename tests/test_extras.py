"""What pyproject.toml promises of the extras, against what the code asks for and what CI pins."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDS_A_GPU = {"tensorrt", "tensorrt-rtx"}
TOO_LARGE = {"tensorflow"}
BROUGHT_BY = {"grpcio": "tritonclient", "cuda-python": "cuda-bindings"}
PINNED_ELSEWHERE = {"tensorrt", "tensorflow", "tensorflow-cpu", "tf2onnx"}
"""Not installed by CI."""


def libraries(extra):
    """What an extra installs, with what the extras in it do."""
    found, inside = set(), [extra]
    while inside:
        for requirement in map(Requirement, EXTRAS[inside.pop()]):
            if requirement.name == "mopt":
                inside += requirement.extras
            else:
                found.add(requirement.name)
    return found


def test_all_is_every_extra_but_those_for_a_gpu_and_the_largest():
    rest = EXTRAS.keys() - {"all"} - NEEDS_A_GPU - TOO_LARGE
    assert libraries("all") == set().union(*(libraries(extra) for extra in rest))


def test_what_the_code_says_to_install_brings_what_was_missing():
    source = "".join(path.read_text() for path in (ROOT / "mopt").rglob("*.py"))
    asked = set(re.findall(r'MissingDependencyError\("([\w-]+)", "([\w-]+)"\)', source))
    assert len(asked) > 8
    for library, extra in asked:
        assert BROUGHT_BY.get(library, library) in libraries(extra), (library, extra)


def test_the_core_is_light():
    core = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert "psutil" in core
    assert not core & {"numba", "llvmlite", "torch", "transformers", "pandas", "openvino", "tensorflow"}


def test_ci_pins_every_library():
    pinned = {
        re.split("[=;]", line)[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split("\n")
    }
    named = {
        Requirement(line).name for line in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    }
    assert named - pinned - PINNED_ELSEWHERE == {"mopt"}
