"""Exports of one layer or one model, made as a build makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mopt.errors import NotApplicableError
from mopt.model.checkpoint import open_checkpoint, tensor_entries
from mopt.model.files import Model
from mopt.model.packed import packed_layers
from mopt.model.quantization import Weights
from mopt.model.tensors import copied, map_tensor, planned, write_checkpoint_tensors
from mopt.model.weight_checks import check_weights, compare
from mopt.passes._base import run_passes
from mopt.passes.language._export import ExportPass
from mopt.system.deadlines import TimeLimit
from mopt.system.environments import interpreter_of
from mopt.system.process import run
from tests.passes.language import neutral


def export(step: ExportPass, quantized: Path, folder: Path) -> Path:
    """Run an export where a build runs it: in its environment, in a child process."""
    folder.mkdir(parents=True)
    source = Model("quantized", quantized, "")
    if step.tools:
        run(run_passes, (step,), source, folder, limit=TimeLimit(900), python=interpreter_of(step.tools))
    else:
        step.apply(source, folder)
    return folder


def agreeing(step: ExportPass, base: Path) -> dict[str, Path]:
    """Export every scheme that a packing has, check each against the neutral form and the source, and return the folders."""
    source = neutral.checkpoint(base / "source", blocks=1)
    folders: dict[str, Path] = {}
    for name, options in neutral.SCHEMES.items():
        quantized = neutral.quantize(source, base / f"{name}-neutral", kv_cache="fp8", **options)
        try:
            folders[name] = export(step, quantized, base / name)
        except NotApplicableError:
            continue
        assert compare(quantized, folders[name]) == [], name
        assert check_weights(source, folders[name]) == [], name
    return folders


def tensors(folder: Path, layer: str) -> dict[str, Any]:
    """Return the tensors of a layer by their last name."""
    result = {}
    for name, entry in open_checkpoint(folder).tensors.items():
        if name.rpartition(".")[0] == layer:
            result[name.rpartition(".")[2]] = (entry.dtype, np.array(map_tensor(folder, entry)))
    return result


def decoded(folder: Path, target: Path) -> Path:
    """Write a checkpoint that is not quantized, of the numbers that a quantized one stands for."""
    target.mkdir()
    model = open_checkpoint(folder)
    layers = packed_layers(model)
    listed = [
        planned(f"{name}.weight", "F32", layer.unscaled(0, layer.shape[0]) * layer.factor) for name, layer in layers.items()
    ]
    listed += [copied(name, folder, entry) for name, entry in model.tensors.items() if name.rpartition(".")[0] not in layers]
    write_checkpoint_tensors(target, listed)
    config = {key: value for key, value in model.config.items() if key != "quantization_config"}
    (target / "config.json").write_text(json.dumps(config))
    return target


def counting(base: Path, weights: Weights) -> Path:
    """Write a neutral form in which every row of codes counts 0, 1, 2, ... along the inputs, and round again."""
    source = neutral.checkpoint(base / "source", blocks=1)
    folder = neutral.quantize(source, base / "neutral", weights)
    file = folder / "block-00000.safetensors"
    data = bytearray(file.read_bytes())
    for name, entry in tensor_entries(folder, file.name).items():
        if name.endswith(".codes"):
            rows, columns = entry.shape
            codes = np.tile(np.arange(columns) % (1 << weights.bits), (rows, 1))
            data[entry.begin : entry.end] = (codes - (8 if weights.symmetric else 0)).astype(np.int8).tobytes()
        if name.endswith(".zeros"):
            data[entry.begin : entry.end] = (np.arange(entry.size) // entry.shape[1] % 15 + 1).astype(np.uint8).tobytes()
    file.write_bytes(data)
    return folder
