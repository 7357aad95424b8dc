from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError, UserError
from mopt.model.files import Model
from mopt.model.gguf import open_gguf
from mopt.passes.language._gguf_mixture import MIXTURES
from mopt.passes.language.quantize_gguf import _FILE_TYPES, QuantizeGguf, _pieces
from mopt.system.llama_api import TENSOR_TYPES
from tests.gguf_files import LLAMA, write_gguf
from tests.gguf_models import apply, exported
from tests.servers import missing

needs_llama_cpp = pytest.mark.skipif(bool(missing("llama_cpp")), reason=missing("llama_cpp"))
needs_converter = pytest.mark.skipif(bool(missing("llm_compressor")), reason=missing("llm_compressor"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": "q4_k_xl"}, "no type that llama.cpp quantizes"),
        ({"output_type": "q9"}, "no type of a tensor"),
        ({"tensor_types": (("ffn", "q5_k_m"),)}, "no type of a tensor"),
        ({"tensor_types": (("ffn(", "q5_k"),)}, "no regular expression"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        QuantizeGguf(**fields)  # type: ignore[arg-type]


def test_every_mixture_has_a_number() -> None:
    assert _FILE_TYPES.keys() == MIXTURES.keys()
    assert {kind.lower() for kind in MIXTURES.values()} <= TENSOR_TYPES.keys()


def test_pieces_are_whole_rows_of_one_expert() -> None:
    assert list(_pieces(10, 5, 3)) == [(0, 3), (3, 5), (5, 8), (8, 10)]


@pytest.mark.slow
@pytest.mark.servers
@needs_llama_cpp
def test_what_is_quantized_already_is_not_quantized_again(tmp_path: Path) -> None:
    given = {"blk.0.ffn_up.weight": (np.ones((32, 256)), 1)}
    source = write_gguf(tmp_path / "source" / "model.gguf", LLAMA, given).parent
    apply(QuantizeGguf(type="q8_0"), Model.at("gguf", source), tmp_path / "once")
    with pytest.raises(NotApplicableError, match="is Q8_0 already"):
        apply(QuantizeGguf(type="q4_k_m"), Model.at("gguf", tmp_path / "once"), tmp_path / "twice")
    with pytest.raises(NotApplicableError, match="garbage without an importance matrix"):
        apply(QuantizeGguf(type="iq2_xs"), Model.at("gguf", source), tmp_path / "low")


@pytest.mark.slow
@pytest.mark.servers
@needs_llama_cpp
@needs_converter
def test_a_real_model(tmp_path: Path) -> None:
    _, source = exported()
    fields = {"type": "q4_k_m", "output_type": "q8_0", "tensor_types": (("blk.0.ffn_down", "q5_k"),)}
    result = apply(QuantizeGguf(**fields), Model.at("gguf", source), tmp_path / "model")  # type: ignore[arg-type]
    before, after = open_gguf(source / "model.gguf"), open_gguf(tmp_path / "model" / "model.gguf")
    assert after.file_type == "Q4_K_M"
    assert after.tensors["output.weight"].type == "Q8_0"
    assert after.tensors["blk.0.ffn_down.weight"].type == "Q5_K"
    assert after.tensors["blk.0.attn_norm.weight"].type == "F32"
    changed = {"general.file_type", "general.quantization_version"}
    assert {key: value for key, value in after.metadata.items() if key not in changed} == {
        key: value for key, value in before.metadata.items() if key not in changed
    }
    assert result["detail"]["bits_per_weight"] == pytest.approx(after.bits_per_weight, abs=1e-3)
    assert after.bits_per_weight < 7
    assert (tmp_path / "model" / "LICENSE").is_file()


@pytest.mark.slow
@pytest.mark.servers
@needs_llama_cpp
@needs_converter
def test_q8_0_is_near_the_source(tmp_path: Path) -> None:
    _, source = exported()
    apply(QuantizeGguf(type="q8_0"), Model.at("gguf", source), tmp_path / "model")
    before, after = open_gguf(source / "model.gguf"), open_gguf(tmp_path / "model" / "model.gguf")
    name = "blk.1.ffn_up.weight"
    given = np.fromfile(before.path, np.float16, before.tensors[name].parameters, offset=before.tensors[name].offset)
    blocks = np.fromfile(after.path, np.uint8, after.tensors[name].size, offset=after.tensors[name].offset).reshape(-1, 34)
    scales, codes = blocks[:, :2].copy().view(np.float16), blocks[:, 2:].copy().view(np.int8)
    # A scale is the largest of 32 weights over 127; a weight is off by half of it, and by what float16 takes off 127 scales.
    error = np.abs(scales.astype(np.float32) * codes - given.astype(np.float32).reshape(-1, 32))
    assert (error <= 0.57 * scales.astype(np.float32) + 1e-6).all()
