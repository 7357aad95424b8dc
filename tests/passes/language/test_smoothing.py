"""AWQ's and SmoothQuant's scales: what they are folded into, and that the block still computes the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mopt.model.quantization import Quantization
from mopt.passes.language.quantize_awq import QuantizeAWQ
from mopt.passes.language.quantize_int8 import QuantizeInt8
from mopt.system.environments import find_environment
from tests.passes.language.checkpoints import (
    decode,
    logits,
    quantize_in_environment,
    replace_tensor,
    source_weights,
    write_calibration,
    write_source,
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.servers]


@pytest.fixture(autouse=True)
def _environment() -> None:
    if find_environment("llm_compressor") is None:
        pytest.skip("needs mopt tools install llm_compressor")


def _relative(after: np.ndarray, before: np.ndarray) -> float:
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


def _of_most_tokens(after: np.ndarray, before: np.ndarray) -> float:
    """The median over tokens: a router's near tie sends a token to another expert for the least of reasons."""
    return float(np.median(np.linalg.norm(after - before, axis=-1) / np.linalg.norm(before, axis=-1)))


@pytest.mark.parametrize(
    ("architecture", "experts"), [("LlamaForCausalLM", 0), ("Qwen3ForCausalLM", 0), ("MixtralForCausalLM", 4)]
)
def test_at_eight_bits_the_scaled_model_computes_the_same(architecture: str, experts: int, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", architecture=architecture, experts=experts)
    windows = write_calibration(tmp_path / "windows")
    quantize_in_environment(QuantizeAWQ(bits=8, group_size=32, windows=windows), source, tmp_path / "out")
    before, after = source_weights(source), decode(tmp_path / "out")
    changed = [name for name in before if name.endswith("norm.weight") and not np.array_equal(before[name], after[name])]
    assert changed
    assert _of_most_tokens(logits(source, after, windows), logits(source, before, windows)) < 0.02
    # The error is told with the scaling undone: at eight bits it is small.
    assert max(layer.error for layer in Quantization.read(tmp_path / "out").layers.values()) < 0.02


def test_outlying_inputs_are_spared(tmp_path: Path) -> None:
    """A few inputs of a layer are a hundred times as large as the others: AWQ's own case."""
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows")
    for layer in range(2):
        name = f"model.layers.{layer}.input_layernorm.weight"
        value = source_weights(source)[name].copy()
        value[[3, 40, 77]] = 60.0
        source = replace_tensor(source, name, value)
    before = logits(source, source_weights(source), windows)
    errors = {}
    for name, step in {
        "awq": QuantizeAWQ(group_size=32, search=False, windows=windows),
        "int8": QuantizeInt8(windows=windows, smoothing=0.5),
    }.items():
        quantize_in_environment(step, source, tmp_path / name)
        errors[name] = _relative(logits(source, decode(tmp_path / name), windows), before)
    from mopt.passes.language.quantize_rtn import QuantizeRTN

    plain = QuantizeRTN(group_size=32, symmetric=False, search=False)
    quantize_in_environment(plain, source, tmp_path / "rtn")
    assert errors["awq"] < 0.8 * _relative(logits(source, decode(tmp_path / "rtn"), windows), before)
    assert errors["int8"] < 0.1


def test_smoothing_shrinks_what_the_inputs_of_a_layer_reach(tmp_path: Path) -> None:
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows")
    name = "model.layers.0.input_layernorm.weight"
    value = source_weights(source)[name].copy()
    value[7] = 80.0
    source = replace_tensor(source, name, value)
    step = QuantizeInt8(windows=windows, smoothing=0.5)
    quantize_in_environment(step, source, tmp_path / "out")
    after = decode(tmp_path / "out")[name]
    assert abs(after[7]) / np.abs(after).mean() < 0.3 * abs(value[7]) / np.abs(value).mean()
    assert dataclasses.replace(step, smoothing=0.0).algorithm == "rtn"
    assert Quantization.read(tmp_path / "out").algorithm == "smoothquant+rtn"
