"""A language model to serve, and the folders of an artifact around a tiny one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.model.quantization import Activations, LayerQuantization, Weights
from tests.language_models import TinyModel

INT4 = LayerQuantization(weights=Weights())
INT8_ALONE = LayerQuantization(weights=Weights(bits=8, group_size=0))
INT8 = LayerQuantization(weights=Weights(bits=8, group_size=0), activations=Activations(kind="int8"))
FP8 = LayerQuantization(weights=Weights(kind="fp8", bits=8, group_size=0), activations=Activations(kind="fp8"))
FP8_STATIC = LayerQuantization(
    weights=Weights(kind="fp8", bits=8, group_size=-1), activations=Activations(kind="fp8", dynamic=False)
)
NVFP4 = LayerQuantization(weights=Weights(kind="nvfp4", group_size=16), activations=Activations(kind="nvfp4"))
HOSTILE = 'x"; rm -rf ~ #\n```\n<script>$(id)`id`'
"""A name that is text and nothing else, wherever it is written."""


def served(**changes: Any) -> ServedLanguageModel:
    """Return a Llama in INT4."""
    fields = {
        "name": "tiny", "architecture": "LlamaForCausalLM", "format": "huggingface", "method": "compressed-tensors",
        "scheme": INT4, "context": 128, "threads": 2, "chat": True, "group_size": 128,
    }  # fmt: skip
    return ServedLanguageModel(**(fields | changes))


def written(system: LanguageServing, root: Path, model: ServedLanguageModel) -> Path:
    """Write the files of a system beside a tiny model, as an artifact has them; return their folder."""
    folder = root / "serving" / system.name
    folder.mkdir(parents=True)
    model_folder = root / "model"
    if not model_folder.exists():
        TinyModel().write(model_folder)
    system.write(folder, served=model, model_folder=model_folder)
    return folder
