"""Export a local Hugging Face folder: an encoder or a classifier."""

from __future__ import annotations

__all__ = ["ExportHuggingface"]

import dataclasses
import inspect
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.datasets.spec import SourceDefaults
from mopt.errors import UserError
from mopt.exporters._base import Exporter, require
from mopt.exporters._huggingface_folder import folder_defaults
from mopt.exporters.torch import export_module, run_module
from mopt.model.signature import BATCH, Feed
from mopt.passes._base import PassResult

SEQUENCE = "sequence"
_SAFE = "save it as safetensors: model.save_pretrained(folder, safe_serialization=True)"
_EXAMPLE_LENGTH = 16
"""Tokens of the example that the model is traced with; the length stays variable."""
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSeq2SeqLM", "ForSpeechSeq2Seq")
_NOT_READ = (".git", ".cache", "onnx", "openvino")
"""Folders of a snapshot that transformers does not load the model from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportHuggingface(Exporter):
    """Load the architecture that ``config.json`` names with transformers, and export it as PyTorch does.

    A text model gets ``input_ids``, ``attention_mask`` and, where it tells segments apart, ``token_type_ids``, with dynamic
    batch and sequence; an image model gets ``pixel_values`` with a dynamic batch. Weights are read from safetensors; from
    ``pytorch_model.bin`` only what torch loads with ``weights_only``. Code in the folder is never run, and nothing is
    downloaded.
    """

    accepts: ClassVar[str] = "a Hugging Face folder (with config.json)"
    libraries: ClassVar[tuple[str, ...]] = ("transformers", "torch", "onnxscript", "onnx-ir")
    extra: ClassVar[str] = "huggingface"

    @classmethod
    def matches(cls, source: str) -> bool:
        """Whether it is a folder with ``config.json``."""
        return (Path(source) / "config.json").is_file()

    def files(self) -> dict[str, Path]:
        """Return every file of the folder, but for other forms of the same model."""
        folder = Path(self.source)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        named = {path.relative_to(folder): path for path in paths}
        return {name.as_posix(): path for name, path in named.items() if name.parts[0] not in _NOT_READ}

    def brings(self) -> SourceDefaults:
        """Return what the files beside the weights say; none of them is code."""
        return folder_defaults(Path(self.source))

    def environment(self) -> dict[str, str]:
        """Nothing may be fetched, and no pickle may hold more than weights."""
        return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}

    def apply(self, folder: Path) -> PassResult:
        """Export with dynamic batch and sequence."""
        require("onnxscript", self.extra)
        model = self._load()
        examples = _examples(model)
        dynamic = {name: _axes(value) for name, value in examples.items()}
        detail = export_module(model, (), examples, folder, dynamic=dynamic)
        return PassResult(True, {"architecture": type(model).__name__, **detail})

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run the model with transformers."""
        model = self._load()
        return list(run_module(model, (), _examples(model), feeds))

    def _load(self) -> Any:
        transformers, torch = require("transformers", self.extra), require("torch", self.extra)
        folder = Path(self.source)
        architecture = self._architecture(transformers)
        safetensors = any(folder.glob("*.safetensors"))
        if not safetensors and not any(folder.glob("pytorch_model*.bin")):
            raise UserError(f"{folder} has no weights", "it needs model.safetensors (or pytorch_model.bin)")
        try:
            model = architecture.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=safetensors,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation="eager",
            )
        except pickle.UnpicklingError as error:
            raise UserError(f"the weights of {folder} are a pickle that holds more than weights", _SAFE) from error
        except Exception as error:  # transformers raises whatever its configuration, files and model classes do
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"transformers cannot load {folder}: {reason}", "save it again with save_pretrained") from error
        model.config.return_dict = True
        model.config.output_hidden_states = model.config.output_attentions = False
        return model.eval()

    def _architecture(self, transformers: Any) -> Any:
        path = Path(self.source) / "config.json"
        try:
            config = json.loads(path.read_text())
            names = config.get("architectures") or []
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path} is not a model's configuration: {error}", "save it again with save_pretrained") from None
        if not names:
            raise UserError(f"{path} names no architecture", 'add "architectures", as save_pretrained does')
        name = str(names[0])
        if name.endswith(_GENERATES):
            raise UserError(f"{name} generates text", "mopt takes encoders and classifiers from a Hugging Face folder")
        architecture = getattr(transformers, name, None)
        if architecture is None or not hasattr(architecture, "from_pretrained"):
            raise UserError(
                f"transformers has no architecture {name}; code that comes with a model is never run",
                "export it with file.py:function, which is your own code",
            )
        return architecture


def _examples(model: Any) -> dict[str, Any]:
    """Return example inputs with a batch of 2, by the name of the argument."""
    import torch

    config = model.config
    main = getattr(model, "main_input_name", "input_ids")
    if main == "pixel_values":
        height, width = _image_size(config)
        return {main: torch.zeros(2, getattr(config, "num_channels", 3), height, width)}
    if main != "input_ids" or getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{type(model).__name__} takes {main}", "mopt takes text and image encoders; give file.py:function")
    accepted = inspect.signature(model.forward).parameters
    tokens = torch.ones(2, _EXAMPLE_LENGTH, dtype=torch.int64)
    examples = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if "token_type_ids" in accepted and (getattr(config, "type_vocab_size", 0) or 0) > 1:
        examples["token_type_ids"] = torch.zeros_like(tokens)
    return {name: value for name, value in examples.items() if name in accepted}


def _image_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


def _axes(example: Any) -> dict[int, str]:
    return {0: BATCH, 1: SEQUENCE} if example.dim() == 2 else {0: BATCH}
