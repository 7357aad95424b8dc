"""A Hugging Face folder of a causal language model, read without running anything of it."""

from __future__ import annotations

__all__ = [
    "COMPANIONS",
    "Checkpoint",
    "TensorEntry",
    "copy_companions",
    "is_causal_folder",
    "open_checkpoint",
    "tensor_entries",
]

import dataclasses
import fnmatch
import functools
import itertools
import json
import math
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mopt.errors import UserError

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_MOST_HEADER = 100_000_000
"""Bytes of a header that safetensors itself accepts."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "F4": 4,
}  # fmt: skip
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "chat_template.*", "additional_chat_templates/*.jinja", "spiece.model", "*.tiktoken",
    "preprocessor_config.json",
    "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "README.md",
)  # fmt: skip
"""What travels with the weights: configuration, tokenizer, chat template, licence, model card. No code."""


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies."""

    file: str
    dtype: str
    """As safetensors calls it: ``BF16``, ``F32``, ``I8``, ..."""
    shape: tuple[int, ...]
    begin: int
    """Of its bytes in the file."""
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A causal language model on disk.

    Attributes:
        folder: That holds it.
        config: What ``config.json`` says.
        tensors: By name.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]

    @property
    def architecture(self) -> str:
        """Class of transformers that runs it, such as ``LlamaForCausalLM``."""
        return str(self.config["architectures"][0])

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The part of the configuration that is about text: all of it but for models of several kinds of input."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.tensors.values())

    @property
    def vocabulary(self) -> int:
        """Tokens that it gives a probability."""
        return int(self.text_config["vocab_size"])

    @property
    def positions(self) -> int:
        """Tokens that it was made for at most."""
        return int(self.text_config.get("max_position_embeddings") or 2048)

    @property
    def dtype(self) -> str:
        """The type that it is to be computed in, such as ``bfloat16``; empty where it does not say."""
        sources = (self.text_config, self.config)
        named = next((source[key] for source in sources for key in ("dtype", "torch_dtype") if source.get(key)), "")
        return str(named).removeprefix("torch.")

    @property
    def quantization(self) -> Mapping[str, Any]:
        """What ``config.json`` says of how its weights are quantized; empty for one that is not."""
        settings = self.config.get("quantization_config")
        return settings if isinstance(settings, dict) else {}


def is_causal_folder(source: str | Path) -> bool:
    """Whether a folder is a causal language model as transformers saves one."""
    try:
        return any(
            name.endswith(("ForCausalLM", "LMHeadModel")) for name in _architectures(_json(Path(source) / "config.json"))
        )
    except UserError:
        return False


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the configuration and the headers of the weights; no tensor is read.

    Raises:
        UserError: When it is not such a folder, its weights are pickled, damaged or incomplete, or a name leaves the folder.
    """
    config = _json(folder / "config.json")
    if not is_causal_folder(folder):
        architectures = ", ".join(_architectures(config)) or "none"
        raise UserError(
            f"{folder} is no causal language model: its architectures are {architectures}", "give one that ends in ForCausalLM"
        )
    tensors: dict[str, TensorEntry] = {}
    for name in _files(folder):
        for tensor, entry in tensor_entries(folder, name).items():
            if tensor in tensors:
                raise UserError(f"{folder}: {tensor} is in {tensors[tensor].file} and in {name}", "save the model again")
            tensors[tensor] = entry
    if (folder / _INDEX).is_file() and (missing := sorted(_weight_map(folder).keys() - tensors.keys())):
        raise UserError(f"{folder} is not complete: no file has {missing[0]}", "fetch it again")
    return Checkpoint(folder, config, tensors)


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return list(map(str, names)) if isinstance(names, list) else []


def copy_companions(source: Path, target: Path, *, skip: tuple[str, ...] = ()) -> list[str]:
    """Copy what travels with the weights; return the names. Code is left behind, and links that leave the folder."""
    copied = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if not _stays(source, path):
            continue
        wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in COMPANIONS) and path.suffix != ".py"
        if wanted and path.is_file() and name not in skip:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
            copied.append(name)
    return copied


def _stays(folder: Path, path: Path) -> bool:
    """Whether a file lies in a folder, links followed; those of the hub's cache lead to the blobs beside its snapshots."""
    home, real = folder.resolve(), path.resolve()
    cached = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    return cached or real.is_relative_to(home)


def _weight_map(folder: Path) -> dict[str, str]:
    """File of each tensor, as the index says."""
    weights = _json(folder / _INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise UserError(f"{folder / _INDEX} names no weights", "save the model again")
    return {tensor: str(name) for tensor, name in weights.items()}


def _files(folder: Path) -> list[str]:
    if (folder / _INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
    elif (folder / _SINGLE).is_file():
        names = [_SINGLE]
    elif pickled := sorted(path.name for path in folder.glob("*.bin")):
        raise UserError(
            f"the weights of {folder} are pickled ({pickled[0]}), and a pickle can run code",
            "save them as safetensors: model.save_pretrained(folder)",
        )
    else:
        raise UserError(
            f"{folder} has no weights: neither {_SINGLE} nor {_INDEX}", "give the folder that save_pretrained wrote"
        )
    for name in names:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or not _stays(folder, folder / name):
            raise UserError(f"{folder} has its weights outside of the folder: {name}", "do not use this model")
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not complete: {name} is missing", "fetch it again")
    return names


def tensor_entries(folder: Path, name: str) -> dict[str, TensorEntry]:
    """Read the header of one safetensors file of a folder: where each of its tensors lies.

    Raises:
        UserError: When it is damaged.
    """
    path = folder / name
    size = path.stat().st_size
    damaged = functools.partial(_damaged, path)
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MOST_HEADER, size - 8):
            raise damaged("its header is not one of safetensors")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            raise damaged("its header is no JSON") from None
    if not isinstance(header, dict):
        raise damaged("its header is no JSON object")
    header.pop("__metadata__", None)
    data = size - 8 - length
    entries = {tensor: _entry(name, tensor, fields, 8 + length, data, damaged) for tensor, fields in header.items()}
    in_order = sorted(entries, key=lambda tensor: (entries[tensor].begin, entries[tensor].end))
    for before, after in itertools.pairwise(in_order):
        if entries[after].begin < entries[before].end:
            raise damaged(f"{after} lies over {before}")
    return entries


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged: {reason}", "fetch it again")


def _entry(file: str, tensor: str, fields: Any, offset: int, data: int, damaged: functools.partial[UserError]) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = str(fields["dtype"]), tuple(map(int, fields["shape"])), map(int, fields["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise damaged(f"nothing says where {tensor} lies") from None
    bits = _BITS.get(dtype)
    if bits is None or min(shape, default=0) < 0 or not 0 <= begin <= end <= data:
        raise damaged(f"{tensor} lies outside of it, or has no type that safetensors knows")
    if end - begin != (math.prod(shape) * bits + 7) // 8:
        raise damaged(f"{tensor} is not as large as its shape says")
    return TensorEntry(file, dtype, shape, offset + begin, offset + end)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}", "give the folder that save_pretrained wrote") from None
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} cannot be read as JSON", "fetch it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object", "fetch it again")
    return value
