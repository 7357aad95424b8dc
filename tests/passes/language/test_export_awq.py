import json
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.packed import open_quantized
from mopt.model.quantization import Weights
from mopt.passes.language.export_awq import ExportAWQ
from tests.passes.language import exports, neutral

LAYER = "model.layers.0.self_attn.q_proj"


def test_a_word_holds_outputs_0_2_4_6_1_3_5_7(tmp_path: Path) -> None:
    quantized = exports.counting(tmp_path, Weights(group_size=64, symmetric=False))
    tensors = exports.tensors(exports.export(ExportAWQ(), quantized, tmp_path / "out"), LAYER)
    kind, words = tensors["qweight"]
    assert (kind, words.shape) == ("I32", (128, 16))
    assert words.view(np.uint32)[:4, 0].tolist() == [0x00000000, 0x11111111, 0x22222222, 0x33333333]
    kind, zeros = tensors["qzeros"]
    assert (kind, zeros.shape) == ("I32", (2, 16))
    assert zeros.view(np.uint32)[0, 0] == 0x86427531  # zero points 1 to 8 of outputs 0 to 7
    assert (tensors["scales"][0], tensors["scales"][1].shape) == ("F16", (2, 128))


def test_symmetric_codes_have_zero_points_of_8(tmp_path: Path) -> None:
    quantized = neutral.quantize(neutral.checkpoint(tmp_path / "source", blocks=1), tmp_path / "neutral", Weights())
    folder = exports.export(ExportAWQ(), quantized, tmp_path / "out")
    assert set(exports.tensors(folder, LAYER)["qzeros"][1].view(np.uint32).flat) == {0x88888888}
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert settings == {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": 128,
        "zero_point": True,
        "modules_to_not_convert": ["lm_head"],
    }


@pytest.mark.slow
def test_every_scheme_of_int4_comes_back(tmp_path: Path) -> None:
    assert set(exports.agreeing(ExportAWQ(), tmp_path)) == {"w4a16", "w4a16-g32", "w4a16-asymmetric"}


def test_mixed_schemes_are_refused(tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    mixed = neutral.quantize(source, tmp_path / "mixed", {"": Weights(), "down_proj": Weights(group_size=64)})
    with pytest.raises(NotApplicableError, match="one group size for all layers"):
        ExportAWQ().check(open_quantized(mixed))
