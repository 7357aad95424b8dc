import json
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.checkpoint import tensor_entries
from mopt.model.quantization import Weights
from mopt.passes.language.export_gptq import ExportGPTQ
from tests.passes.language import exports, neutral

LAYER = "model.layers.0.self_attn.q_proj"


def test_codes_go_down_the_inputs_and_zero_points_are_stored_less_one(tmp_path: Path) -> None:
    quantized = exports.counting(tmp_path, Weights(group_size=64, symmetric=False))
    tensors = exports.tensors(exports.export(ExportGPTQ(), quantized, tmp_path / "out"), LAYER)
    kind, words = tensors["qweight"]
    assert (kind, words.shape) == ("I32", (16, 128))
    assert words.view(np.uint32)[:2].tolist() == [[0x76543210] * 128, [0xFEDCBA98] * 128]
    kind, zeros = tensors["qzeros"]
    assert (kind, zeros.shape) == ("I32", (2, 16))
    assert zeros.view(np.uint32)[:, :2].tolist() == [[0x76543210, 0x0EDCBA98]] * 2  # zero points 1 to 15, then 1 again
    assert (tensors["scales"][0], tensors["scales"][1].shape) == ("F16", (2, 128))
    assert tensors["g_idx"][1].tolist() == [0] * 64 + [1] * 64


def test_symmetric_zero_points_are_sevens(tmp_path: Path) -> None:
    quantized = neutral.quantize(neutral.checkpoint(tmp_path / "source", blocks=1), tmp_path / "neutral", Weights())
    tensors = exports.tensors(exports.export(ExportGPTQ(), quantized, tmp_path / "out"), LAYER)
    assert set(tensors["qzeros"][1].view(np.uint32).flat) == {0x77777777}


@pytest.mark.slow
def test_every_scheme_of_integers_comes_back(tmp_path: Path) -> None:
    folders = exports.agreeing(ExportGPTQ(), tmp_path)
    assert set(folders) == {"w4a16", "w4a16-g32", "w4a16-asymmetric", "w8a16", "w8a16-g64", "mixed"}
    settings = {name: json.loads((folder / "quantize_config.json").read_text()) for name, folder in folders.items()}
    assert {name: (kept["bits"], kept["group_size"], kept["sym"], kept["desc_act"]) for name, kept in settings.items()} == {
        "w4a16": (4, 128, True, False),
        "w4a16-g32": (4, 32, True, False),
        "w4a16-asymmetric": (4, 32, False, False),
        "w8a16": (8, -1, True, False),
        "w8a16-g64": (8, 64, True, False),
        "mixed": (4, 32, True, False),
    }
    rules = settings["mixed"]["dynamic"]
    assert rules == {r"+:model\.layers\.0\.mlp\.(down_proj)$": {"bits": 8, "group_size": 32, "sym": True}}


def test_a_zero_point_of_0_is_refused(tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    quantized = neutral.quantize(source, tmp_path / "neutral", Weights(group_size=32, symmetric=False))
    file = quantized / "block-00000.safetensors"
    entry = tensor_entries(quantized, file.name)[f"{LAYER}.zeros"]
    data = bytearray(file.read_bytes())
    data[entry.begin + 5] = 0
    file.write_bytes(data)
    with pytest.raises(NotApplicableError, match=f"{LAYER}: a zero point is 0"):
        exports.export(ExportGPTQ(), quantized, tmp_path / "out")
