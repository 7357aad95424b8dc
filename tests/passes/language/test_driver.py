"""Whole runs over tiny models: what they write, leave and refuse, and how they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.errors import NotApplicableError, UserError
from mopt.model.files import Model
from mopt.model.quantization import Quantization
from mopt.passes.language import _driver
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.passes.language.quantize_rtn import QuantizeRTN
from tests.language_models import load_tensors
from tests.passes.language.checkpoints import (
    decode,
    files,
    logits,
    quantize,
    replace_tensor,
    source_weights,
    write_calibration,
    write_source,
)  # fmt: skip

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")


def test_what_is_written_computes_nearly_the_same(tmp_path: Path) -> None:
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows")
    before = logits(source, source_weights(source), windows)
    errors = []
    for bits in (4, 8):
        quantize(QuantizeRTN(bits=bits, group_size=32), source, tmp_path / str(bits))
        after = logits(source, decode(tmp_path / str(bits)), windows)
        errors.append(float(np.linalg.norm(after - before) / np.linalg.norm(before)))
    assert 0 < errors[1] < 0.02 < errors[0] < 0.3


def test_all_of_the_neutral_form_is_there_and_nothing_else(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", shards=2)
    result = quantize(QuantizeRTN(group_size=32), source, tmp_path / "out")
    quantization, tensors = Quantization.read(tmp_path / "out"), load_tensors(tmp_path / "out")
    assert set(quantization.tensors) == set(tensors)
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == set(quantization.tensors.values())
    assert len(quantization.layers) == 14
    assert set(quantization.left) == {"lm_head"}
    assert not (tmp_path / "out" / "unfinished").exists()
    assert {"config.json", "tokenizer.json", "LICENSE", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert result.detail["bits_per_weight"] == 4.5
    errors = {name: layer.error for name, layer in quantization.layers.items()}
    expected, weights = decode(tmp_path / "out"), source_weights(source)
    for name, error in errors.items():
        weight = weights[f"{name}.weight"]
        assert error == pytest.approx(np.linalg.norm(expected[f"{name}.weight"] - weight) / np.linalg.norm(weight), rel=1e-3)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", tied=True)
    quantize(QuantizeRTN(group_size=32), source, tmp_path / "out")
    assert "lm_head.weight" not in load_tensors(tmp_path / "out")
    assert "shares" in Quantization.read(tmp_path / "out").left["lm_head"]


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_experts_are_quantized_one_by_one_and_their_router_is_left(architecture: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", architecture=architecture, experts=4)
    windows = write_calibration(tmp_path / "windows")
    quantize(QuantizeGPTQ(group_size=32, windows=windows), source, tmp_path / "out")
    quantization = Quantization.read(tmp_path / "out")
    assert sum(".experts." in name for name in quantization.layers) == 2 * 4 * 3
    routers = [name for name in quantization.left if name.endswith(".gate")]
    assert len(routers) == 2
    before, after = source_weights(source), decode(tmp_path / "out")
    assert set(before) == set(after)
    assert np.array_equal(before[f"{routers[0]}.weight"], after[f"{routers[0]}.weight"])
    assert max(layer.error for layer in quantization.layers.values()) < 0.2


def test_an_expert_that_calibration_never_reaches_is_rounded_and_told(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", architecture="MixtralForCausalLM", experts=8)
    windows = write_calibration(tmp_path / "windows", count=1, length=8, tokens=1)
    result = quantize(QuantizeGPTQ(group_size=32, windows=windows), source, tmp_path / "out")
    assert any("never reached" in note for note in result.detail["notes"].values())
    assert max(layer.error for layer in Quantization.read(tmp_path / "out").layers.values()) < 0.2


@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM"])
def test_other_architectures_are_quantized(architecture: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", architecture=architecture, biases=architecture.startswith("Qwen2"))
    windows = write_calibration(tmp_path / "windows")
    quantize(QuantizeGPTQ(group_size=32, windows=windows), source, tmp_path / "out")
    before = logits(source, source_weights(source), windows)
    after = logits(source, decode(tmp_path / "out"), windows)
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 0.3


def test_odd_sizes_take_a_smaller_group_or_are_left(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", hidden=96, inner=136, heads=2)
    quantize(QuantizeRTN(group_size=64), source, tmp_path / "out")
    quantization = Quantization.read(tmp_path / "out")
    assert quantization.layers["model.layers.0.mlp.up_proj"].weights.group_size == 32
    assert "136 inputs" in quantization.left["model.layers.0.mlp.down_proj"]


def test_mixed_bits_are_what_was_asked(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    step = QuantizeRTN(group_size=32, layers=(("*.down_proj", 8, 64), ("*.o_proj", 16, 0)), leave=("*layers.0.mlp.up_proj",))
    quantize(step, source, tmp_path / "out")
    quantization = Quantization.read(tmp_path / "out")
    assert quantization.layers["model.layers.1.mlp.down_proj"].weights.bits == 8
    assert {name for name in quantization.left if "layers" in name} == {
        "model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj", "model.layers.0.mlp.up_proj",
    }  # fmt: skip
    assert quantization.uniform is None


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"]
)
def test_numbers_that_are_not_finite_are_refused(name: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    value = source_weights(source)[name].copy()
    value.reshape(-1)[3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        quantize(QuantizeRTN(group_size=32), replace_tensor(source, name, value), tmp_path / "out")


def test_an_architecture_that_transformers_lacks_is_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", architecture="NobodysForCausalLM")
    with pytest.raises(NotApplicableError):
        quantize(QuantizeRTN(), source, tmp_path / "out")


@pytest.mark.parametrize("step", ["rtn", "gptq"])
def test_a_run_that_was_killed_goes_on_and_writes_the_same_bytes(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, windows = write_source(tmp_path / "source", layers=3), write_calibration(tmp_path / "windows")
    make: Any = {
        "rtn": QuantizeRTN(group_size=32),
        "gptq": QuantizeGPTQ(group_size=32, windows=windows, kv_cache="fp8"),
    }[step]
    quantize(make, source, tmp_path / "whole")
    real, folder = _driver.write_tensors, tmp_path / "out"

    def killed(path: Path, tensors: Any) -> None:
        if path.name == "block-00002.safetensors":
            path.with_name(path.name + ".partial").write_bytes(b"half")
            raise KeyboardInterrupt
        real(path, tensors)

    monkeypatch.setattr(_driver, "write_tensors", killed)
    with pytest.raises(KeyboardInterrupt):
        quantize(make, source, folder)
    monkeypatch.setattr(_driver, "write_tensors", real)
    result = quantize(make, source, folder)
    assert result.detail["kept_blocks"] == 2
    assert {name: data for name, data in files(folder).items() if not name.endswith(".partial")} == files(tmp_path / "whole")


def test_a_finished_block_that_is_damaged_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = write_source(tmp_path / "source", layers=3), tmp_path / "out"
    real = _driver.write_tensors

    def killed(path: Path, tensors: Any) -> None:
        if path.name == "block-00002.safetensors":
            raise KeyboardInterrupt
        real(path, tensors)

    monkeypatch.setattr(_driver, "write_tensors", killed)
    with pytest.raises(KeyboardInterrupt):
        quantize(QuantizeRTN(group_size=32), source, folder)
    monkeypatch.setattr(_driver, "write_tensors", real)
    data = bytearray((folder / "block-00001.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "block-00001.safetensors").write_bytes(data)
    assert quantize(QuantizeRTN(group_size=32), source, folder).detail["kept_blocks"] == 1
    quantize(QuantizeRTN(group_size=32), source, tmp_path / "whole")
    assert files(folder) == files(tmp_path / "whole")


def test_what_another_pass_left_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = write_source(tmp_path / "source"), tmp_path / "out"
    monkeypatch.setattr(_driver, "copy_companions", _killed)
    folder.mkdir()
    (folder / "stranger.txt").write_text("")
    with pytest.raises(KeyboardInterrupt):
        quantize(QuantizeRTN(bits=8), source, folder)
    monkeypatch.undo()
    quantize(QuantizeRTN(group_size=32), source, folder)
    assert not (folder / "stranger.txt").exists()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_scales_of_a_cache_are_those_of_the_largest_keys_and_values(kind: str, tmp_path: Path) -> None:
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows")
    quantize(QuantizeRTN(group_size=32, bits=8, windows=windows, kv_cache=kind), source, tmp_path / "out")
    quantization, tensors = Quantization.read(tmp_path / "out"), load_tensors(tmp_path / "out")
    assert quantization.kv_cache == kind
    assert quantization.kv_scales
    for layer in range(2):
        for name in ("k_scale", "v_scale"):
            assert 0 < tensors[f"model.layers.{layer}.self_attn.{name}"][0] < 1


def test_the_source_stays_as_it_was(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    quantize(QuantizeGPTQ(group_size=32, windows=write_calibration(tmp_path / "windows")), source, tmp_path / "out")
    assert Model.at("huggingface", source.folder).digest == source.digest
