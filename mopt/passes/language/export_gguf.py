"""Write a Hugging Face folder as GGUF, unquantized or in Q8_0, with llama.cpp's own converter."""

from __future__ import annotations

__all__ = ["ExportGguf"]

import collections
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.checkpoint import Checkpoint, copy_companions, open_checkpoint
from mopt.model.files import Model
from mopt.model.formats import model_format
from mopt.model.gguf import GGUF, open_gguf
from mopt.model.tokenizer_files import chat_template_of
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass
from mopt.passes.language._gguf_companions import copy_gguf_companions
from mopt.passes.language._gguf_converter import architecture_of, load_converter

_WITH_CODE = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_REASON = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportGguf(LanguagePass):
    """Convert weights, tokenizer, chat template and licence; tensors are read one at a time.

    The converter is given a copy of the folder without code and without references to any, so that what it loads with
    ``trust_remote_code`` cannot run anything.

    Attributes:
        dtype: Of the weights, ``source`` for the one that they have; norms are float32 in all of them.
    """

    makes: ClassVar[str] = "gguf"
    libraries: ClassVar[tuple[str, ...]] = ("auto-round", "gguf", "torch", "transformers", "sentencepiece")

    dtype: Literal["source", "f32", "f16", "bf16", "q8_0"] = "source"

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Write ``model.gguf``, with the licence and the model card beside it."""
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        checkpoint = open_checkpoint(source.folder)
        target = folder / model_format("gguf").main_file
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            # The converter calls the model what its folder is called, where no model card does.
            staged = Path(scratch) / (str(checkpoint.config.get("model_type") or "model").replace("/", "-"))
            _stage(checkpoint, staged)
            _convert(checkpoint, staged, target, self.dtype if self.dtype != "source" else _dtype_of(checkpoint))
        gguf = open_gguf(target)
        _check(gguf, source.folder)
        copy_gguf_companions(source.folder, folder)
        return PassResult(True, {**describe(gguf), "architecture": checkpoint.architecture})


def describe(gguf: GGUF) -> dict[str, Any]:
    """Return what is worth telling about a GGUF, as JSON data."""
    return {
        "file_type": gguf.file_type,
        "bits_per_weight": round(gguf.bits_per_weight, 4),
        "bytes": gguf.size,
        "parameters": gguf.parameters,
        "gguf_architecture": gguf.architecture,
    }


def _dtype_of(checkpoint: Checkpoint) -> str:
    """The type that most bytes have; float32 where it is none that GGUF holds unquantized."""
    sizes = collections.Counter[str]()
    for entry in checkpoint.tensors.values():
        sizes[entry.dtype] += entry.size
    return {"BF16": "bf16", "F16": "f16"}.get(sizes.most_common(1)[0][0], "f32") if sizes else "f32"


def _stage(checkpoint: Checkpoint, staged: Path) -> None:
    """Make a folder of links to the weights and copies of all else, without a word of code to import."""
    staged.mkdir()
    copy_companions(checkpoint.folder, staged)
    for name in _WITH_CODE:
        path = staged / name
        if path.is_file():
            fields = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({key: value for key, value in fields.items() if key != "auto_map"}), encoding="utf-8")
    names = sorted({entry.file for entry in checkpoint.tensors.values()})
    for number, name in enumerate(names, 1):
        # Under names that the converter looks for, so that it needs no index and finds nothing else.
        (staged / f"model-{number:05d}-of-{len(names):05d}.safetensors").symlink_to((checkpoint.folder / name).resolve())


def _convert(checkpoint: Checkpoint, staged: Path, target: Path, dtype: str) -> None:
    import gguf
    import torch

    kind, _ = architecture_of(load_converter(), checkpoint.architecture)
    try:
        with torch.inference_mode():
            kind(staged, getattr(gguf.LlamaFileType, _FILE_TYPES[dtype]), target).write()
    except (NotImplementedError, ValueError, KeyError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
        raise NotApplicableError(f"llama.cpp's converter does not take {checkpoint.architecture}: {reason}") from error


def _check(gguf: GGUF, folder: Path) -> None:
    """Compare what must travel along with the source."""
    if chat_template_of(folder) and not gguf.chat_template:
        raise CandidateRejectedError(Rejection.FAILED, "llama.cpp's converter lost the chat template")
    if not gguf.tokens:
        raise CandidateRejectedError(Rejection.FAILED, "llama.cpp's converter wrote no vocabulary")
