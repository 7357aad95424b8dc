"""Faults planted in checkpoints of each packing are found, and the layer is named."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.model.checkpoint import open_checkpoint
from mopt.model.files import Model
from mopt.model.quantization import Weights
from mopt.model.weight_checks import check_weights, compare
from mopt.passes.language.export_awq import ExportAWQ
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.passes.language.export_modelopt import ExportModelOpt
from tests.passes.language import neutral

LAYER = "model.layers.0.mlp.gate_proj"
EXPORTS = {"gptq": ExportGPTQ(), "awq": ExportAWQ(), "modelopt": ExportModelOpt()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return neutral.checkpoint(tmp_path_factory.mktemp("source") / "model", blocks=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, Path]:
    """One quantization in three packings, and the neutral form."""
    base = tmp_path_factory.mktemp("exported")
    folders = {"neutral": neutral.quantize(source, base / "neutral", Weights(group_size=32))}
    for name, step in EXPORTS.items():
        folders[name] = base / name
        folders[name].mkdir()
        step.apply(Model("quantized", folders["neutral"], ""), folders[name])
    return folders


def _edited(folder: Path, target: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Copy a checkpoint, and change the bytes of one tensor in it."""
    shutil.copytree(folder, target)
    entry = open_checkpoint(target).tensors[name]
    kind = {"I32": "<i4", "F16": "<f2", "F32": "<f4", "U8": "u1", "BF16": "<u2"}[entry.dtype]
    with (target / entry.file).open("r+b") as stream:
        stream.seek(entry.begin)
        array = np.frombuffer(stream.read(entry.size), kind).reshape(entry.shape).copy()
        changed = np.ascontiguousarray(change(array)).astype(kind)
        assert changed.size == array.size
        stream.seek(entry.begin)
        stream.write(changed.tobytes())
    return target


def test_exports_of_one_quantization_hold_the_same_numbers(source: Path, exported: dict[str, Path]) -> None:
    for name in EXPORTS:
        assert compare(exported["neutral"], exported[name]) == []
        assert check_weights(source, exported[name]) == []


def _times(factor: float, *place: int) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[place or ...] *= factor
        return array

    return change


def _swapped_nibbles(words: Any) -> Any:
    octets = words.view(np.uint8)
    return (octets << 4 | octets >> 4).view(np.int32)


def _reordered(words: Any) -> Any:
    """The eight outputs of a word in their order, where AWQ has the even ones below."""
    nibbles = words.view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & np.uint32(0xF)
    places = np.array([0, 4, 1, 5, 2, 6, 3, 7])
    return (nibbles[..., places] << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)


FAULTS = {
    "the scale of one group": ("gptq", "scales", _times(4, 1, 7)),
    "the scales of a layer": ("gptq", "scales", _times(1.25)),
    "swapped nibbles": ("gptq", "qweight", _swapped_nibbles),
    "zero points of the second version": ("gptq", "qzeros", lambda words: words + 0x11111111),
    "a row of scales": ("awq", "scales", _times(0.5, 2)),
    "GPTQ's order in AWQ": ("awq", "qweight", _reordered),
    "zero points of GPTQ": ("awq", "qzeros", lambda words: words - 0x11111111),
    "inputs and outputs changed over": ("awq", "qweight", lambda words: words.T),
    "high and low outputs": ("modelopt", "weight", lambda octets: octets << 4 | octets >> 4),
    "not a number": ("modelopt", "weight_scale", _times(float("nan"), 3, 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_in_its_layer(fault: str, source: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    packing, tensor, change = FAULTS[fault]
    folder = _edited(exported[packing], tmp_path / "faulty", f"{LAYER}.{tensor}", change)
    for problems in (compare(exported["neutral"], folder), check_weights(source, folder)):
        assert len(problems) == 1
        assert problems[0].startswith(f"{LAYER}: ")


def test_what_is_wrong_is_said(source: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    folder = _edited(exported["gptq"], tmp_path / "faulty", f"{LAYER}.scales", _times(4, 1, 7))
    (problem,) = check_weights(source, folder)
    assert re.search(r"row 7, group 1 is (3\.[89]\d*|4|4\.[01]\d*) times the source$", problem)
    (problem,) = compare(exported["neutral"], folder)
    assert re.search(r"[23]\d of 32768 weights differ, first in row 7, input (3[2-9]|4\d)", problem)
    assert "the scale is" in problem


def test_tensors_that_are_not_quantized_are_compared_too(source: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    for index, name in enumerate(("lm_head.weight", "model.layers.0.input_layernorm.weight", "model.embed_tokens.weight")):
        folder = _edited(exported["gptq"], tmp_path / str(index), name, lambda bits: np.roll(bits, 1))
        assert compare(exported["neutral"], folder) == [f"{name}: differs"]
        assert any(problem.startswith(f"{name}: ") for problem in check_weights(source, folder))


def test_configuration_that_says_other_than_the_tensors_is_found(exported: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "faulty"
    shutil.copytree(exported["gptq"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["group_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    problems = compare(exported["neutral"], folder)
    assert len(problems) == 7
    assert problems[0].endswith("config.json says groups of 64, and they are of 32")


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_folded_into_norms_and_neighbours_are_undone(bits: int, source: Path, tmp_path: Path) -> None:
    folder = neutral.quantize(source, tmp_path / "scaled", Weights(bits=bits, group_size=32), scaled=True)
    out = tmp_path / "out"
    out.mkdir()
    ExportGPTQ().apply(Model("quantized", folder, ""), out)
    assert check_weights(source, out) == []


def test_a_fold_that_is_not_undone_is_found(source: Path, tmp_path: Path) -> None:
    folder = neutral.quantize(source, tmp_path / "scaled", Weights(bits=8, group_size=32), scaled=True)
    out = tmp_path / "out"
    out.mkdir()
    ExportGPTQ().apply(Model("quantized", folder, ""), out)
    up, down = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
    faulty = _edited(
        out,
        tmp_path / "faulty",
        f"{up}.scales",
        lambda scales: np.r_[scales[:, :9].T, scales[:, 9:10].T * 2, scales[:, 10:].T].T,
    )
    problems = check_weights(source, faulty)
    assert {problem.partition(":")[0] for problem in problems} == {up, down}
    assert f"row 9 of {up} times column 9 of {down}" in problems[0]


def test_a_norm_that_scales_nothing_is_found(source: Path, tmp_path: Path) -> None:
    folder = neutral.quantize(source, tmp_path / "scaled", Weights(bits=8, group_size=32), scaled=True)
    out = tmp_path / "out"
    out.mkdir()
    ExportGPTQ().apply(Model("quantized", folder, ""), out)
    name = "model.layers.0.post_attention_layernorm.weight"
    original = open_checkpoint(source)
    entry = original.tensors[name]
    raw = np.frombuffer((source / entry.file).read_bytes()[entry.begin : entry.end], "<u2")
    faulty = _edited(out, tmp_path / "faulty", name, lambda bits: raw.copy())
    assert {problem.partition(":")[0].rpartition(".")[2] for problem in check_weights(source, faulty)} >= {"gate_proj"}


def test_layers_that_are_missing_or_of_another_model_are_named(source: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    larger = neutral.checkpoint(tmp_path / "larger", blocks=2, seed=1)
    problems = check_weights(larger, exported["gptq"])
    assert any(problem.startswith("model.layers.1.mlp.up_proj.weight: missing") for problem in problems)
    assert any(
        re.match(r"model.layers.0.mlp.gate_proj: differs from the source by 1\d\d\.\d%", problem) for problem in problems
    )
    unlike = neutral.quantize(larger, tmp_path / "unlike", Weights(group_size=32))
    assert "model.layers.1.mlp.up_proj: not quantized, or missing" in compare(unlike, exported["gptq"])
