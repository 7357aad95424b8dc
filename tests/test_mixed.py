import json

from mopt.mixed import mixed_variants
from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.plan import Candidate
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.openvino import OpenVINO
from mopt.trials import compile_candidate
from tests.passes import graphs


def test_the_noisiest_operators_stay_in_float_first(tmp_path, store):
    source = graphs.transformer(tmp_path / "model")
    samples = graphs.sequences(tmp_path / "samples")
    step = QuantizeInt8Static(calibration=samples)
    candidate = Candidate("int8", (step,), OnnxRuntime(threads=1))
    compiled = compile_candidate(candidate, source, store)
    variants = mixed_variants(candidate, source, compiled.model, store)
    assert [variant.name for variant in variants] == ["int8-mixed2", "int8-mixed4"]
    (ranking,) = (store.root / "rankings").glob("*/ranking.json")
    ranked = json.loads(ranking.read_text())
    assert [entry["sqnr_db"] for entry in ranked] == sorted(entry["sqnr_db"] for entry in ranked)
    assert set(variants[0].passes[-1].float_nodes) == {entry["node"] for entry in ranked[:2]}
    everything = compiled.records[-1].detail["quantized"]
    fewer = compile_candidate(variants[1], source, store).records[-1].detail["quantized"]
    assert sum(fewer.values()) < sum(everything.values())


def test_what_was_not_quantized_has_no_variants(tmp_path, store):
    source = graphs.transformer(tmp_path / "model")
    candidate = Candidate("fp32", (BuildOpenvino(),), OpenVINO(threads=1))
    assert mixed_variants(candidate, source, source, store) == []
