"""What a language model is, without running it."""

from __future__ import annotations

__all__ = ["inspect_language"]

import collections
from pathlib import Path

from mopt.artifacts.artifact import is_language_artifact
from mopt.artifacts.language import LanguageArtifact
from mopt.model.checkpoint import open_checkpoint
from mopt.model.formats import model_format
from mopt.model.gguf import open_gguf
from mopt.records.description import ModelDescription


def inspect_language(source: Path) -> ModelDescription:
    """Describe a Hugging Face folder, a GGUF file or an artifact of a language model.

    Raises:
        UserError: When it is damaged.
    """
    if not is_language_artifact(source):
        return _gguf(source) if source.is_file() else _folder(source)
    manifest = LanguageArtifact.read(source).manifest
    folder = source / "model"
    if manifest.format == "huggingface":
        described = _folder(folder)
    elif manifest.format == "gguf":
        described = _gguf(folder / model_format("gguf").main_file)
    else:
        described = ModelDescription(
            format=manifest.format,
            file=str(folder),
            producer=manifest.source.architecture,
            parameters=manifest.source.parameters,
            size_bytes=manifest.winner.size_bytes or 0,
            inputs=(),
            outputs=(),
            weights={},
            operators={},
        )
    return described.model_copy(update={"artifact": manifest.name, "chosen": manifest.chosen})


def _folder(folder: Path) -> ModelDescription:
    checkpoint = open_checkpoint(folder)
    weights: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for entry in checkpoint.tensors.values():
        weights[entry.dtype][0] += 1
        weights[entry.dtype][1] += entry.size
    method = str(checkpoint.quantization.get("quant_method", ""))
    return ModelDescription(
        format="huggingface",
        file=str(folder),
        producer=" ".join(filter(None, [checkpoint.architecture, method])),
        parameters=checkpoint.parameters,
        size_bytes=checkpoint.size,
        inputs=(),
        outputs=(),
        weights={name: (count, size) for name, (count, size) in weights.items()},
        operators={},
    )


def _gguf(path: Path) -> ModelDescription:
    gguf = open_gguf(path)
    weights: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for tensor in gguf.tensors.values():
        weights[tensor.type][0] += 1
        weights[tensor.type][1] += tensor.size
    return ModelDescription(
        format="gguf",
        file=str(path),
        producer=f"{gguf.architecture} {gguf.file_type}",
        parameters=gguf.parameters,
        size_bytes=path.stat().st_size,
        inputs=(),
        outputs=(),
        weights={name: (count, size) for name, (count, size) in weights.items()},
        operators={},
    )
