import dataclasses

import numpy as np

from mopt.records.measurement import Estimate, Profile
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.structure import same_speed, timing_key
from tests.passes import graphs
from tests.search.cases import product, trial


def test_other_numbers_in_the_same_graph_are_as_fast(tmp_path):
    assert timing_key(trial("a", product(tmp_path / "a"))) == timing_key(trial("b", product(tmp_path / "b", 3.0)))


def test_another_shape_another_operator_or_another_axis_is_not(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 4] y) { y = %s (x, w) }'
    base = timing_key(trial("a", graphs.model(tmp_path / "a", text % "MatMul", {"w": np.ones((4, 4), np.float32)})))
    other = graphs.model(tmp_path / "b", text % "Add", {"w": np.ones((4, 4), np.float32)})
    assert timing_key(trial("b", other)) != base
    shape = graphs.model(tmp_path / "c", text % "Add", {"w": np.ones((1, 4), np.float32)})
    assert timing_key(trial("c", shape)) != timing_key(trial("b", other))
    reshape = '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[?, ?] y) { y = Reshape (x, w) }'
    wide = timing_key(trial("d", graphs.model(tmp_path / "d", reshape, {"w": np.array([1, 4])})))
    assert wide != timing_key(trial("e", graphs.model(tmp_path / "e", reshape, {"w": np.array([4, 1])})))


def test_another_runtime_is_another_speed(tmp_path):
    one = trial("a", product(tmp_path / "a"))
    two = dataclasses.replace(one, candidate=dataclasses.replace(one.candidate, runtime=OnnxRuntime(threads=7)))
    assert timing_key(one) != timing_key(two)


def test_a_shared_timing_says_whose_it_is(tmp_path):
    profile = Profile(threads=1, load_ms=1, first_ms=1, peak_bytes=1, batches=(), depth="screening", limit="screened")
    speed = Estimate(value=2, low=1.9, high=2.1, count=7)
    measured = dataclasses.replace(trial("leader", product(tmp_path / "a")), screened=speed).update(
        profile=profile, effective_precision="int8+fp32"
    )
    shared = same_speed(trial("variant", product(tmp_path / "b", 3.0)), measured)
    assert shared.screened == speed
    assert shared.record.profile.limit == "as measured of leader, which has the same graph and types"
    assert shared.record.effective_precision == "int8+fp32"
