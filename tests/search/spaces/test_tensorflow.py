import dataclasses

from mopt.artifacts.serving.tf_serving import TfServing
from mopt.artifacts.serving.triton import Triton
from mopt.search.candidates import search_space
from mopt.search.spaces.tensorflow import TensorflowSpace
from tests.search.spaces.models import CNN, cpu, inputs

GIVEN = inputs(CNN, cpu("avx2"))


def test_the_model_as_it_is_is_tried_where_tensorflow_is_served():
    (candidate,) = TensorflowSpace().candidates(dataclasses.replace(GIVEN, served=frozenset({"tensorflow"})))
    assert candidate.name == "tensorflow-fp32"
    assert [step.name for step in candidate.passes] == ["build_savedmodel"]
    assert candidate.passes[0].calibration == GIVEN.calibration
    assert candidate.runtime.threads == GIVEN.threads


def test_no_build_pays_for_it_that_is_not_served_by_tensorflow():
    def tried(*systems):
        return {candidate.name for candidate in search_space(GIVEN, ["*"], "latency", serving=systems) if not candidate.refused}

    assert tried(TfServing()) == {"tensorflow-fp32"}
    assert "tensorflow-fp32" not in tried() | tried(Triton()) | tried(Triton(), TfServing())
