"""Real builds with plugins that another package brings: each has to be run, in a child process, and not merely listed."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.packages import REPOSITORY, install, python
from tests.small import digits

pytestmark = pytest.mark.slow

PASS = '''
"""Round weights."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from mopt.model.samples import Samples
from mopt.passes._base import GraphPass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundWeights(GraphPass):
    """Keep so many bits of every weight."""

    bits: int
    calibration: Samples

    def rewrite(self, model: ir.Model) -> PassResult:
        import numpy as np
        import onnx_ir as ir

        for value in model.graph.initializers.values():
            array = value.const_value.numpy()
            scale = float(np.abs(array).max(initial=0)) / 2 ** (self.bits - 1) or 1.0
            value.const_value = ir.tensor((np.round(array / scale) * scale).astype(array.dtype), name=value.name)
        return PassResult(True, {"process": os.getpid(), "parent": os.getppid(), "samples": len(self.calibration)})
'''
RUNTIME = '''
"""ONNX Runtime without its graph optimisations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from mopt.runtimes._base import Runtime, Session
from mopt.runtimes.onnxruntime import OnnxSession


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Runtime):
    """Every operator on its own."""

    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    level: int = 0

    def open(self, path: Path) -> Session:
        return _Session(path, self.threads)


class _Session(OnnxSession):
    def _options(self):
        import onnxruntime

        options = super()._options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options
'''
SPACE = '''
"""Candidates for a runtime of this package."""

from collections.abc import Iterator

from mopt.search.spaces._base import SearchSpace, SpaceInputs
from mopt.search.trial import Candidate
from theirs.runtime import Plain


class PlainSpace(SearchSpace):
    """The model as it is."""

    def candidates(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        yield Candidate("plain-fp32", (), Plain(threads=inputs.threads))

    def smaller(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        yield Candidate("plain-small", (), Plain(threads=inputs.threads, level=1))
'''
METRIC = '''
"""Share of samples whose class is near the right one."""

from __future__ import annotations

import dataclasses

from mopt.evaluators._metric import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Near(Metric):
    """Right when the class is at most ``distance`` away."""

    distance: int = 1

    def rows(self, outputs, label, reference):
        import numpy as np

        return np.array([float(abs(int(outputs["scores"].argmax()) - int(label)) <= self.distance)])
'''
SERVING = '''
"""A server of this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mopt.artifacts.serving._base import EVERYTHING, ServingSystem
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server(ServingSystem):
    """One line for the server."""

    settable = {"plain": EVERYTHING, "onnxruntime": EVERYTHING}

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        (folder / "server.txt").write_text(f"{manifest.name} {manifest.format}")
'''
PLUGINS = {
    "passes/round_weights": "code:RoundWeights",
    "runtimes/plain": "runtime:Plain",
    "spaces/plain": "space:PlainSpace",
    "metrics/near": "metric:Near",
    "serving/their_server": "serving:Server",
}
RECIPE = """
model = "digits.onnx"
data = "digits.npz"
metric = "near"
metric_options = { distance = 2 }
serve = ["their_server"]

[search]
candidates = ["mine", "plain-fp32"]
simplify = [{ name = "round_weights", bits = 24 }, ["fold_constants"]]
max_batch = 2
rounds = 5
threads = 1

[[search.candidate]]
name = "mine"
runtime = "plain"
runtime_options = { level = 2 }
passes = [{ name = "round_weights", bits = 12 }]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    modules = {"code": PASS, "runtime": RUNTIME, "space": SPACE, "metric": METRIC, "serving": SERVING}
    install(folder / "packages", "theirs", modules, PLUGINS)
    digits(folder)
    (folder / "mopt.toml").write_text(RECIPE)
    return folder


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return python(place / "packages", "-m", "mopt", *words, MOPT_CACHE=str(place / "cache"))


def build(place: Path, *words: str) -> dict[str, Any]:
    shutil.rmtree(place / "out", ignore_errors=True)
    done = run(place, "build", "--recipe", str(place / "mopt.toml"), "--out", str(place / "out"), "--quiet", *words)
    assert done.returncode == 0, done.stderr
    manifest: dict[str, Any] = json.loads((place / "out" / "manifest.json").read_text())
    return manifest


def test_a_build_runs_pass_runtime_space_metric_and_serving_system_of_another_package(place: Path) -> None:
    manifest = build(place)
    trials = {trial["name"]: trial for trial in manifest["trials"]}
    assert list(trials) == ["reference", "mine", "plain-fp32"]
    mine = trials["mine"]
    assert (mine["runtime"], mine["runtime_fields"]["level"]) == ("plain", 2)
    assert [step["name"] for step in mine["passes"]] == ["round_weights", "fold_constants", "round_weights"]
    assert [step["fields"].get("bits") for step in mine["passes"]] == [24, None, 12]
    assert mine["passes"][-1]["detail"]["samples"] == manifest["data"]["calibration"]
    assert mine["passes"][-1]["detail"]["process"] != mine["passes"][-1]["detail"]["parent"]
    assert trials["reference"]["quality"]["metric"] == "near"
    for name in ("mine", "plain-fp32"):  # one that is slower is out before its quality is looked at
        assert trials[name]["evidence"]["float"]
        assert trials[name]["profile"] is not None
    assert (place / "out" / "serving" / "their_server" / "server.txt").read_text() == "digits onnx"
    done = run(place, "verify", str(place / "out"))
    assert done.returncode == 0, done.stderr


def test_the_second_build_is_cached_and_an_edited_plugin_is_a_miss(place: Path) -> None:
    first = build(place)
    assert build(place) == first
    module = place / "packages" / "theirs" / "metric.py"
    module.write_text(METRIC.replace("<= self.distance", "< self.distance"))
    try:
        assert build(place)["created"] != first["created"]
    finally:
        module.write_text(METRIC)


def test_what_a_space_has_for_size_is_tried_for_size_only(place: Path) -> None:
    (place / "every.toml").write_text(RECIPE.replace('["mine", "plain-fp32"]', '["*"]'))
    for objective, tried in (("latency", False), ("size", True)):
        done = run(place, "build", "--recipe", str(place / "every.toml"), "--dry-run", "--objective", objective)
        assert done.returncode == 0, done.stderr
        assert ("plain-small" in done.stdout) == tried


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bits = 12", "bit = 12", "candidate mine: round_weights has no option bit"),
        ("bits = 12", 'bits = "12"', "candidate mine: round_weights: bits: Input should be a valid integer"),
        (", bits = 12", "", "candidate mine: round_weights needs the option bits"),
        ('"round_weights", bits = 12', '"round_weight", bits = 12', "candidate mine: unknown pass: round_weight"),
    ],
)
def test_a_mistake_in_its_options_is_one_line_with_exit_code_2(place: Path, old: str, new: str, words: str) -> None:
    recipe = place / "wrong.toml"
    recipe.write_text(RECIPE.replace(old, new))
    done = run(place, "build", "--recipe", str(recipe), "--out", str(place / "wrong"), "--quiet")
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (place / "wrong").exists()


def test_the_example_of_a_package_works(tmp_path: Path) -> None:
    folder = REPOSITORY / "examples" / "plugin"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    (group,) = project["entry-points"]
    plugins = {f"{group.removeprefix('mopt.')}/{name}": value for name, value in project["entry-points"][group].items()}
    ((plugin, value),) = plugins.items()
    package, _, place = value.partition(".")
    source = (folder / package / f"{place.partition(':')[0]}.py").read_text()
    install(tmp_path / "packages", package, {place.partition(":")[0]: source}, {plugin: place})
    digits(tmp_path)
    (tmp_path / "mopt.toml").write_text(
        'model = "digits.onnx"\ndata = "digits.npz"\nsearch.candidates = ["rounded"]\nsearch.max_batch = 1\nsearch.rounds = 5\n'
        '[[search.candidate]]\nname = "rounded"\nruntime = "onnxruntime"\npasses = [{ name = "round_weights", bits = 10 }]\n'
    )
    manifest = build(tmp_path)
    (step,) = [step for step in manifest["trials"][1]["passes"] if step["name"] == "round_weights"]
    assert (step["fields"], step["detail"]) == ({"bits": 10}, {"rounded": 6})
