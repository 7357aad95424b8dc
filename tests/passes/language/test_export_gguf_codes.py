"""A GGUF holds exactly the codes of a quantization, wherever the converter has put their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.gguf import open_gguf
from mopt.model.packed import open_quantized, packed_layers
from mopt.model.quantization import Weights
from mopt.passes.language._gguf_codes import block_type
from mopt.passes.language.export_gguf_codes import ExportGgufCodes
from mopt.passes.language.quantize_gguf import QuantizeGguf
from tests.gguf_models import MODEL, apply
from tests.passes.language import neutral
from tests.passes.language.test_gguf_codes import decode
from tests.servers import missing

MISSING = missing("llm_compressor") or missing("llama_cpp")


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (Weights(group_size=32, symmetric=False), "signed integers of 4 or 8 bits"),
        (Weights(kind="fp8", bits=8, group_size=0), "signed integers of 4 or 8 bits"),
        (Weights(group_size=16), "no blocks of 32"),
    ],
)
def test_what_blocks_cannot_hold_is_refused(weights: Weights, reason: str, tmp_path: Path) -> None:
    quantized = neutral.quantize(neutral.checkpoint(tmp_path / "source", blocks=1), tmp_path / "neutral", weights)
    (tmp_path / "out").mkdir()
    with pytest.raises(NotApplicableError, match=reason):
        ExportGgufCodes().apply(Model.at("quantized", quantized), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize("weights", [Weights(group_size=32), Weights(bits=8, group_size=64)], ids=str)
def test_the_codes_are_in_the_gguf_as_they_are(weights: Weights, tmp_path: Path) -> None:
    quantized = neutral.quantize(MODEL.write(tmp_path / "source"), tmp_path / "neutral", weights)
    apply(ExportGgufCodes(), Model.at("quantized", quantized), tmp_path / "codes")
    apply(QuantizeGguf(type="q4_0"), Model.at("gguf", tmp_path / "codes"), tmp_path / "written")
    before, after = open_gguf(tmp_path / "codes" / "model.gguf"), open_gguf(tmp_path / "written" / "model.gguf")
    kind, width = block_type(weights.bits)
    for name, tensor in after.tensors.items():
        if not name.startswith("blk.") or len(tensor.shape) < 2:
            continue
        assert tensor.type == kind, name
        rows = np.memmap(after.path, np.uint8, "r", tensor.offset, (tensor.shape[0], tensor.shape[1] // 32 * width))
        same = before.tensors[name]
        bits = np.memmap(before.path, "<u2" if same.type == "BF16" else "<u4", "r", same.offset, same.shape)
        numbers = (bits.astype("<u4") << 16 if same.type == "BF16" else bits).view("<f4")
        np.testing.assert_allclose(decode(rows, weights.bits), numbers, rtol=2.0**-8)
    assert (after.tensors["output.weight"].type, after.tensors["token_embd.weight"].type) == ("Q6_K", "Q5_K")
    layer = packed_layers(open_quantized(quantized))["model.layers.0.mlp.down_proj"]
    tensor = after.tensors["blk.0.ffn_down.weight"]
    rows = np.memmap(after.path, np.uint8, "r", tensor.offset, (tensor.shape[0], tensor.shape[1] // 32 * width))
    assert np.array_equal(decode(rows, weights.bits), layer.unscaled(0, layer.shape[0]))
