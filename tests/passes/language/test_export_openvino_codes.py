"""A graph of OpenVINO holds the integers of the neutral form, and executes them."""

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.openvino_properties import OpenvinoProperties
from mopt.model.quantization import Activations, LayerQuantization, Weights
from mopt.passes.language._rounded import decoded
from mopt.passes.language.export_openvino_codes import ExportOpenvinoCodes, _constant
from mopt.passes.language.export_openvino_genai import ExportOpenvinoGenai
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.openvino_genai import OpenvinoGenai
from tests.genai import dequantized, exported, lacking
from tests.language_models import TinyModel, load_tensors
from tests.passes.language.neutral import quantize

MISSING = lacking("openvino_genai")
EXACT = OpenvinoProperties(kv_cache="f32", dynamic_group_size=0)


@pytest.mark.parametrize(
    ("weights", "activations", "reason"),
    [
        (Weights(kind="fp8", bits=8, group_size=0), None, "integer weights"),
        (Weights(bits=8, group_size=0), Activations(kind="int8"), "inputs are not rounded"),
    ],
)
def test_what_it_cannot_hold_is_refused(tmp_path, weights, activations, reason):
    neutral = quantize(TinyModel().write(tmp_path / "source"), tmp_path / "neutral", weights, activations)
    (tmp_path / "out").mkdir()
    with pytest.raises(NotApplicableError, match=reason):
        ExportOpenvinoCodes().apply(Model.at("quantized", neutral), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "groups"),
    [
        (Weights(bits=4, group_size=32), 3),
        (Weights(bits=4, group_size=32, symmetric=False), 3),
        (Weights(bits=4, group_size=0), 1),
        (Weights(bits=8, group_size=0), 1),
        (Weights(bits=8, group_size=32, symmetric=False), 3),
        (Weights(bits=8, group_size=-1), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("exact", [True, False], ids=["half", "float"])
def test_a_constant_stands_for_exactly_these_numbers(weights, groups, exact):
    openvino = pytest.importorskip("openvino")
    random = np.random.default_rng(0)
    outputs, inputs = 6, 96
    low, high = (-(1 << weights.bits - 1), 1 << weights.bits - 1) if weights.symmetric else (0, 1 << weights.bits)
    codes = random.integers(low, high, (outputs, inputs)).astype(np.int8 if weights.symmetric else np.uint8)
    rows = 1 if weights.group_size == -1 else outputs
    scales = (random.integers(128, 256, (rows, groups)) * (2.0**-12 if exact else 2.0**-40)).astype(np.float32)
    zeros = None if weights.symmetric else random.integers(0, high, (rows, groups)).astype(np.uint8)
    expected = decoded(codes, np.broadcast_to(scales, (outputs, groups)), zeros)
    tensors = {"codes": codes, "scales": scales, "zeros": zeros}
    output = _constant(LayerQuantization(weights=weights), tensors, openvino.Type.f32)
    compiled = openvino.Core().compile_model(openvino.Model([output], []), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.array_equal(compiled({})[0], expected)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_same_numbers_are_executed(tmp_path, symmetric):
    source = TinyModel().write(tmp_path / "source")
    neutral = quantize(source, tmp_path / "neutral", Weights(bits=4, group_size=32, symmetric=symmetric))
    codes, told = exported(ExportOpenvinoCodes(others="source", properties=EXACT), neutral, tmp_path / "codes")
    assert told == {"layers": 14}
    assert sorted(path.name for path in codes.folder.parent.iterdir()) == ["model"]
    floats = dequantized(source, tmp_path / "plain", load_tensors(neutral))
    plain, _ = exported(ExportOpenvinoGenai(weights="fp32", properties=EXACT), floats, tmp_path / "floats")
    window = np.random.default_rng(0).integers(3, 400, 96)
    scores, evidence = [], []
    for model in (codes, plain):
        with LanguageProcess(OpenvinoGenai(threads=2, context=256), model) as session:
            scores.append(session.score([window], 1)[0].logprob)
            evidence.append(session.evidence())
    assert np.abs(scores[0] - scores[1]).max() < 1e-3
    assert sum(count for name, count in evidence[0]["kernels"].items() if "FullyConnected int4" in name) == 14
    assert evidence[1]["precision"] == "fp32"


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_other_matrices_are_held_in_int8(tmp_path):
    source = TinyModel().write(tmp_path / "source")
    neutral = quantize(source, tmp_path / "neutral", Weights(bits=4, group_size=32))
    sizes = {}
    for others in ("source", "int8"):
        model, _ = exported(ExportOpenvinoCodes(others=others), neutral, tmp_path / f"others-{others}")
        sizes[others] = (model.folder / "openvino_model.bin").stat().st_size
    embeddings = 2 * 768 * 128
    assert sizes["source"] - sizes["int8"] == pytest.approx(embeddings, rel=0.1)
    with LanguageProcess(OpenvinoGenai(threads=1, context=256), model) as session:
        assert session.evidence()["precision"] == "int4+int8"
