"""Tiny checkpoints, windows of tokens, and what a quantized folder decodes to."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mopt.model.files import Model
from mopt.model.quantization import Quantization
from mopt.model.tokens import TokenWindows, write_windows
from mopt.passes._base import PassResult, run_passes
from mopt.passes.language._base import LanguagePass
from mopt.system.environments import interpreter_of
from mopt.system.process import run
from tests.language_models import TinyModel, load_tensors, save_tensors, vocabulary

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def write_source(folder: Path, **fields: Any) -> Model:
    """Write a tiny checkpoint."""
    return Model.at("huggingface", TinyModel(**fields).write(folder))


def write_calibration(folder: Path, count: int = 8, length: int = 32, tokens: int | None = None) -> TokenWindows:
    """Write random windows; ``tokens`` says how many different ones occur."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    return write_windows(folder, random.integers(3, 3 + (tokens or len(vocabulary()) - 3), (count, length)).astype(np.int32))


def replace_tensor(model: Model, name: str, value: np.ndarray) -> Model:
    """Change a tensor of a checkpoint in one file."""
    tensors = load_tensors(model.folder)
    save_tensors(model.folder / "model.safetensors", tensors | {name: value.astype(tensors[name].dtype)})
    return Model.at(model.format, model.folder)


def quantize(step: LanguagePass, source: Model, folder: Path) -> PassResult:
    """Run a pass in this process, which has torch and transformers too."""
    folder.mkdir(parents=True, exist_ok=True)
    return step.apply(source, folder)


def quantize_in_environment(step: LanguagePass, source: Model, folder: Path) -> PassResult:
    """Run a pass as a build does."""
    folder.mkdir(parents=True, exist_ok=True)
    (result,) = run(run_passes, (step,), source, folder, python=interpreter_of(step.tools))
    return PassResult(result["modified"], result["detail"])


def decode(folder: Path) -> dict[str, np.ndarray]:
    """Return all weights of a quantized folder in float32, worked out with NumPy from what the neutral form says."""
    quantization, tensors = Quantization.read(folder), load_tensors(folder)
    ending = (".codes", ".scales", ".zeros", ".global_scale", ".input_scale", "k_scale", "v_scale")
    result = {name: value.astype(np.float32) for name, value in tensors.items() if not name.endswith(ending)}
    for name, layer in quantization.layers.items():
        codes, scales = tensors[f"{name}.codes"], tensors[f"{name}.scales"]
        kind = layer.weights.kind
        values = E2M1[codes] if kind in ("mxfp4", "nvfp4") else codes.astype(np.float32)
        step = np.exp2(scales.astype(np.float32) - 127) if kind == "mxfp4" else scales.astype(np.float32)
        step = step * tensors.get(f"{name}.global_scale", np.ones(1, np.float32))
        rows = values.reshape(1, 1, -1) if layer.weights.group_size == -1 else values.reshape(len(values), step.shape[1], -1)
        zeros = tensors.get(f"{name}.zeros", np.zeros(step.shape)).astype(np.float32)
        result[f"{name}.weight"] = ((rows - zeros[..., None]) * step[..., None]).reshape(codes.shape)
    return result


def source_weights(model: Model) -> dict[str, np.ndarray]:
    """Return all weights of a checkpoint in float32."""
    return {name: value.astype(np.float32) for name, value in load_tensors(model.folder).items()}


def logits(model: Model, weights: dict[str, np.ndarray], windows: TokenWindows) -> np.ndarray:
    """Return what transformers computes with some weights in the architecture of a checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(model.folder / "config.json", scratch)
        save_tensors(Path(scratch) / "model.safetensors", weights)
        network = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.float32)
    with torch.no_grad():
        values: np.ndarray = network(torch.from_numpy(windows.load().astype(np.int64))).logits.numpy()
    return values


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def config(model: Model) -> dict[str, Any]:
    """Return ``config.json``."""
    data: dict[str, Any] = json.loads((model.folder / "config.json").read_text())
    return data
