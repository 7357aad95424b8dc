import json

import pytest

from mopt.mixed import Mixing, fewest, mixing
from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.quantize_int4 import QuantizeInt4
from mopt.passes.quantize_int8_dynamic import QuantizeInt8Dynamic
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.plan import Candidate
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.openvino import OpenVINO
from mopt.trials import compile_candidate
from tests.passes import graphs


def test_the_noisiest_operators_stay_in_float_first(tmp_path, store):
    source = graphs.transformer(tmp_path / "model")
    samples = graphs.sequences(tmp_path / "samples")
    candidate = Candidate("int8", (QuantizeInt8Static(calibration=samples),), OnnxRuntime(threads=1))
    compiled = compile_candidate(candidate, source, store)
    plan = mixing(candidate, source, compiled.model, samples, store)
    (ranking,) = (store.root / "rankings").glob("*/ranking.json")
    ranked = json.loads(ranking.read_text())
    assert [entry["sqnr_db"] for entry in ranked] == sorted(entry["sqnr_db"] for entry in ranked)
    assert plan.ranked == tuple(entry["node"] for entry in ranked)
    variant = plan.with_float(plan.ranked[:2])
    assert variant.name == "int8-mixed2"
    everything = compiled.records[-1].detail["quantized"]
    fewer = compile_candidate(variant, source, store).records[-1].detail["quantized"]
    assert sum(fewer.values()) < sum(everything.values())


@pytest.mark.slow
def test_dynamic_quantization_is_ranked_too(tmp_path, store):
    source = graphs.transformer(tmp_path / "model")
    samples = graphs.sequences(tmp_path / "samples")
    candidate = Candidate("dynamic", (QuantizeInt8Dynamic(),), OnnxRuntime(threads=1))
    compiled = compile_candidate(candidate, source, store)
    plan = mixing(candidate, source, compiled.model, samples, store)
    quantized = compiled.records[-1].detail["quantized"]
    assert len(plan.ranked) == sum(quantized.values())
    fewer = compile_candidate(plan.with_float(plan.ranked[:1]), source, store).records[-1].detail["quantized"]
    assert sum(fewer.values()) == sum(quantized.values()) - 1


def test_weights_of_4_bits_that_needed_no_samples_are_ranked_with_real_ones(tmp_path, store):
    source = graphs.transformer(tmp_path / "model")
    samples = graphs.sequences(tmp_path / "samples")
    candidate = Candidate("int4", (QuantizeInt4(block_size=32),), OnnxRuntime(threads=1))
    compiled = compile_candidate(candidate, source, store)
    plan = mixing(candidate, source, compiled.model, samples, store)
    assert plan.ranked
    fewer = compile_candidate(plan.with_float(plan.ranked[:1]), source, store)
    assert fewer.model.digest != compiled.model.digest


def test_what_was_not_quantized_has_no_variants(tmp_path, store):
    source = graphs.transformer(tmp_path / "model")
    candidate = Candidate("fp32", (BuildOpenvino(),), OpenVINO(threads=1))
    assert mixing(candidate, source, source, graphs.sequences(tmp_path / "samples"), store) is None


def plan_of(tmp_path, count):
    step = QuantizeInt8Static(calibration=graphs.sequences(tmp_path / "samples"))
    return Mixing(Candidate("int8", (step,), OnnxRuntime(threads=1)), tuple(f"n{index}" for index in range(count)))


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 11, 24])
def test_the_search_finds_the_fewest(tmp_path, needed):
    plan, tried = plan_of(tmp_path, 40), []

    def holds(candidate):
        kept = set(candidate.passes[-1].float_nodes)
        tried.append(kept)
        return {f"n{index}" for index in range(needed)} <= kept

    found = list(fewest(plan, holds, lambda names: names))
    assert set(found[-1]) == {f"n{index}" for index in range(needed)}
    assert len(tried) <= 10


def test_a_slow_operator_that_is_not_to_blame_goes_back(tmp_path):
    plan = plan_of(tmp_path, 40)

    def holds(candidate):
        return {"n0", "n2"} <= set(candidate.passes[-1].float_nodes)

    found = list(fewest(plan, holds, lambda names: sorted(names, key=lambda name: name != "n1")))
    assert set(found[-1]) == {"n0", "n2"}


def test_the_search_ends_where_nothing_is_gained_any_more(tmp_path):
    tried = []

    def holds(candidate):
        tried.append(candidate.name)
        return None if len(tried) == 2 else False

    assert list(fewest(plan_of(tmp_path, 40), holds, lambda names: names)) == []
    assert tried == ["int8-mixed2", "int8-mixed4"]


def test_when_nothing_holds_there_is_no_answer(tmp_path):
    assert list(fewest(plan_of(tmp_path, 12), lambda _: False, lambda names: names)) == []
