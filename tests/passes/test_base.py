import dataclasses
import json
import os

import onnx_ir as ir
import pytest

from mopt.model.samples import Samples
from mopt.passes._base import GraphPass, PassResult, QuantizingPass, run_passes
from tests.passes import graphs
from tests.search.cases import Odd, Scale, product


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lower(GraphPass, QuantizingPass):
    """Says which of its nodes stay in float."""

    calibration: Samples | None = None

    def rewrite(self, model: ir.Model) -> PassResult:
        return PassResult(False, {"float": list(self.float_nodes)})


def test_the_key_has_everything_that_the_result_depends_on(tmp_path):
    samples = graphs.images(tmp_path, 2)
    key = Lower(calibration=samples, float_nodes=("a",)).key()
    assert json.loads(json.dumps(key)) == key
    assert key["fields"] == {"calibration": samples.digest, "float_nodes": ["a"]}
    assert key["libraries"]["onnx-ir"]
    assert Scale(by=2.0).key() != Scale(by=3.0).key()


def test_a_quantizing_pass_can_leave_nodes_in_float_and_knows_its_samples(tmp_path):
    samples = graphs.images(tmp_path, 2)
    step = Lower(calibration=samples)
    assert step.with_float_nodes(["b", "a"]) == Lower(calibration=samples, float_nodes=("a", "b"))
    assert step.samples() is samples
    assert Lower().samples() is None
    assert step.isolated() == step.for_ranking() == step
    assert step.kind == step.name


@pytest.fixture
def _here():
    """Passes run where their folder is; come back."""
    before = os.getcwd()
    yield
    os.chdir(before)


@pytest.mark.usefixtures("_here")
def test_graph_passes_that_follow_each_other_share_one_model(tmp_path, monkeypatch):
    from mopt.model import onnx_io

    loads = []
    original = onnx_io.load
    monkeypatch.setattr(onnx_io, "load", lambda path: loads.append(path) or original(path))
    source = product(tmp_path / "m")
    (tmp_path / "out").mkdir()
    results = run_passes((Scale(by=2.0), Lower(float_nodes=("n",)), Scale(by=5.0)), source, tmp_path / "out")
    assert len(loads) == 1
    assert [result["modified"] for result in results] == [True, False, True]
    assert results[1]["detail"] == {"float": ["n"]}
    weight = ir.load(tmp_path / "out" / "model.onnx").graph.initializers["w"].const_value.numpy()
    assert weight.max() == 10


@pytest.mark.usefixtures("_here")
def test_a_pass_on_files_runs_alone(tmp_path):
    source = product(tmp_path / "m")
    (tmp_path / "out").mkdir()
    (result,) = run_passes((Odd(way="nothing"),), source, tmp_path / "out")
    assert result.pop("peak_bytes") > 1e6
    assert result == {"modified": True, "detail": {}}
    with pytest.raises(ValueError, match="too many values"):
        run_passes((Odd(way="nothing"), Scale()), source, tmp_path / "out")


def test_a_graph_pass_alone_loads_and_saves(tmp_path):
    made, result = graphs.apply(Scale(by=2.0), product(tmp_path / "m"), tmp_path / "out")
    assert result == PassResult(True, {"by": 2.0})
    assert made.file.is_file()
