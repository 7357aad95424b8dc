"""What the tests of ONNX Runtime GenAI and OpenVINO GenAI share: models that are exported once, and what transformers says."""

from __future__ import annotations

__all__ = ["SECONDS", "Reference", "dequantized", "exported", "lacking", "transformers_says"]

import dataclasses
import json
import math
import subprocess
from pathlib import Path

import numpy as np

from mopt.model.files import Model
from mopt.passes._base import run_passes
from mopt.passes.language._base import LanguagePass
from mopt.system.deadlines import TimeLimit
from mopt.system.environments import find_environment, interpreter_of
from mopt.system.process import run
from tests.language_models import load_tensors, save_tensors

SECONDS = 600
_PROGRAM = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, windows, prompt, count, text = json.loads(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
torch.set_grad_enabled(False)
logprobs = []
for window in windows:
    ids = torch.tensor([window])
    said = model(ids).logits[0, :-1].log_softmax(-1)
    logprobs.append(said.gather(1, ids[0, 1:, None])[:, 0].tolist())
answer = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False)[0, len(prompt):].tolist()
messages = [{"role": "user", "content": text}]
chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if tokenizer.chat_template else ""
print(json.dumps({"logprobs": logprobs, "answer": answer, "tokens": tokenizer(text).input_ids, "chat": chat}))
"""


def lacking(name: str) -> str:
    """Say why an environment's tests cannot run; empty when they can."""
    return "" if find_environment(name) else f"mopt tools install {name} has not run"


@dataclasses.dataclass(frozen=True)
class Reference:
    """What transformers says of a checkpoint in float32."""

    logprobs: list[list[float]]
    answer: list[int]
    tokens: list[int]
    chat: str


def transformers_says(
    environment: str, folder: Path, windows: list[np.ndarray], prompt: np.ndarray, count: int, text: str
) -> Reference:
    """Score, answer, tokenize and render in transformers, in the Python of an environment."""
    asked = json.dumps([str(folder), [window.tolist() for window in windows], prompt.tolist(), count, text])
    result = subprocess.run(
        [interpreter_of(environment), "-I", "-c", _PROGRAM, asked],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "HOME": str(folder.parent)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return Reference(**json.loads(result.stdout.splitlines()[-1]))


def exported(step: LanguagePass, source: Path, folder: Path) -> tuple[Model, dict[str, object]]:
    """Run a pass in its environment; return what it wrote, and what it told."""
    folder.mkdir(parents=True)
    target = folder / "model"
    target.mkdir()
    limit = TimeLimit(SECONDS, math.inf)
    (told,) = run(run_passes, (step,), Model.at(step.takes, source), target, python=interpreter_of(step.tools), limit=limit)
    return Model.at(step.makes, target), told["detail"]


def dequantized(source: Path, folder: Path, neutral: dict[str, np.ndarray]) -> Path:
    """Copy a checkpoint with the weights that integers of a neutral form stand for, in float32.

    Args:
        source: The checkpoint.
        folder: To write.
        neutral: Tensors of its neutral form.
    """
    folder.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "torch_dtype": "float32"}))
    tensors = {name: value.astype(np.float32) for name, value in load_tensors(source).items()}
    for name, codes in neutral.items():
        if name.endswith(".codes"):
            layer = name.removesuffix(".codes")
            scales = neutral[f"{layer}.scales"].astype(np.float32)
            zeros = neutral.get(f"{layer}.zeros", np.zeros_like(scales)).astype(np.float32)
            repeats = codes.shape[1] // scales.shape[1]
            weights = (codes.astype(np.float32) - zeros.repeat(repeats, 1)) * scales.repeat(repeats, 1)
            tensors[f"{layer}.weight"] = weights.astype(np.float32)
    save_tensors(folder / "model.safetensors", tensors)
    return folder
