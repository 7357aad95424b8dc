"""TensorFlow as TensorFlow Serving runs it, in its own environment."""

import numpy as np
import pytest

from mopt.errors import MissingEnvironmentError
from mopt.passes.build_savedmodel import BuildSavedmodel
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.tensorflow import TensorFlow
from mopt.system import forkserver
from mopt.system.environments import find_environment
from tests.passes import graphs

needs_tensorflow = pytest.mark.skipif(find_environment("tensorflow") is None, reason="needs mopt tools install tensorflow")


def test_where_its_environment_is_missing_it_says_how_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path))
    with pytest.raises(MissingEnvironmentError) as caught:
        SessionProcess(TensorFlow(threads=1), graphs.cnn(tmp_path / "onnx"))
    assert caught.value.hint == "mopt tools install tensorflow"


def test_nothing_of_it_is_imported_ahead_in_a_python_that_has_it_not(monkeypatch):
    asked = []
    monkeypatch.setattr(forkserver, "find_server", lambda *arguments: asked.append(arguments))
    TensorFlow(threads=1).prestart()
    assert not asked


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow")
    return graphs.apply(BuildSavedmodel(), graphs.cnn(folder / "onnx"), folder / "made")[0]


@pytest.mark.servers
@needs_tensorflow
def test_what_is_bound_is_what_is_run(made):
    feed = {"image": np.ones((2, 3, 16, 16), np.float32)}
    with SessionProcess(TensorFlow(threads=2), made) as session:
        session.run(feed)
        assert len(session.time([feed], 0.0, 5)) == 5
        assert session.evidence()["threads"] == 2
        assert session.load_ms() > 0


@pytest.mark.servers
@needs_tensorflow
def test_operations_are_those_of_the_model(made):
    """Both convolutions and the product, by the shapes of the graph: two for each multiplication."""
    feed = {"image": np.ones((2, 3, 16, 16), np.float32)}
    with SessionProcess(TensorFlow(threads=1), made) as session:
        session.run(feed)
        costs = {cost.kind: cost for cost in session.operators(feed, repeats=3)}
        kinds = {layer.kind for layer in session.layers(feed, repeats=3)}
    assert costs["Conv"].flops == 2 * 2 * (16 * 16 * 8 * 27 + 8 * 8 * 16 * 72)
    assert costs["MatMul"].flops == 2 * 2 * 16 * 4
    assert {"Conv", "MatMul"} <= kinds
