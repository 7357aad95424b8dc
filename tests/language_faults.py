"""Broken language models: what has passed the tests of public checkpoints, and writes nonsense or answers as another model.

    broken = plant("nibbles-swapped", folder, tmp_path / "broken")

Each fault is planted in a copy of a good model: a Hugging Face folder, quantized or not, the neutral form, or a folder with a
``model.gguf``. What is planted is well-formed: it is loaded without a word.
"""

from __future__ import annotations

__all__ = ["FAULTS", "plant"]

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mopt.model.gguf import GGUF, GGUFTensor, open_gguf
from tests.language_models import load_tensors, save_tensors, tokenizer_files

FACTOR = 4
"""By which the scale of one layer is wrong: a power of two, which every type holds."""
_LAYER = "down_proj"
_SCALES = (".weight_scale", ".scales", ".qscales")
_PACKED = (".weight_packed", ".qweight", ".codes")
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model")
_BLOCKS = {
    "Q4_0": (18, [0], slice(2, 18)), "Q8_0": (34, [0], slice(0)), "Q4_K": (144, [0, 2], slice(16, 144)),
    "Q5_K": (176, [0, 2], slice(48, 176)), "Q6_K": (210, [208], slice(0, 128)), "IQ4_XS": (136, [0], slice(8, 136)),
    "IQ4_NL": (18, [0], slice(2, 18)), "Q5_0": (22, [0], slice(6, 22)), "Q3_K": (110, [108], slice(32, 96)),
}  # fmt: skip
"""Of types of GGUF: bytes of a block, where its float16 scales lie, and where two codes share a byte (``ggml-common.h``)."""


def scale_wrong(folder: Path) -> None:
    """Multiply the scale of one layer in the middle of the model by four."""
    if gguf := _gguf(folder):
        _edit(gguf, _middle(gguf.tensors, "ffn_down.weight"), _scaled)
        return
    file, tensors = _with(folder, lambda name: _LAYER in name and (name.endswith((*_SCALES, ".weight"))))
    names = [name for name in tensors if _LAYER in name and name.endswith(_SCALES)]
    names = names or [name for name in tensors if _LAYER in name and name.endswith(".weight")]
    name = names[len(names) // 2]
    save_tensors(file, {**tensors, name: (tensors[name].astype(np.float32) * FACTOR).astype(tensors[name].dtype)})


def nibbles_swapped(folder: Path) -> None:
    """Swap the two codes in each byte of all packed layers, as a reader of another packing order has it."""
    if gguf := _gguf(folder):
        for tensor in gguf.tensors.values():
            if tensor.type in _BLOCKS and not tensor.type.startswith("Q8"):
                _edit(gguf, tensor, _swapped_codes)
        return
    changed = False
    for file in sorted(folder.glob("*.safetensors")):
        tensors = _file_tensors(file)
        swapped = {name: _swap(name, tensor) for name, tensor in tensors.items() if name.endswith(_PACKED)}
        changed |= bool(swapped)
        save_tensors(file, {**tensors, **swapped})
    assert changed, "nothing is packed in this model"


def template_lost(folder: Path) -> None:
    """Take the chat template away."""
    if gguf := _gguf(folder):
        key = b"tokenizer.chat_template"
        data = gguf.path.read_bytes()
        assert data.count(key) == 1
        gguf.path.write_bytes(data.replace(key, b"tokenizer.chat_templatX"))
        return
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    had = settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    for path in (folder / "chat_template.jinja", folder / "chat_template.json"):
        had = had or path.is_file()
        path.unlink(missing_ok=True)
    assert had, "this model has no chat template"


def tokenizer_foreign(folder: Path) -> None:
    """Put the tokenizer of another model in its place; the chat template stays."""
    if gguf := _gguf(folder):
        _shift_tokens(gguf)
        return
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for pattern in _TOKENIZER:
        for path in folder.glob(pattern):
            path.unlink()
    files = tokenizer_files(int(settings.get("model_max_length", 1024)), template=False)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if template := settings.get("chat_template"):
        foreign = json.loads(files["tokenizer_config.json"]) | {"chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(foreign, indent=2), encoding="utf-8")


FAULTS: Mapping[str, Callable[[Path], None]] = {
    "scale-wrong": scale_wrong,
    "nibbles-swapped": nibbles_swapped,
    "template-lost": template_lost,
    "tokenizer-foreign": tokenizer_foreign,
}
"""Each by name, as a function that changes a folder in place."""


def plant(fault: str, source: Path, target: Path) -> Path:
    """Copy a model and break the copy; return it. ``source`` is not touched."""
    shutil.copytree(source, target)
    FAULTS[fault](target)
    return target


def _file_tensors(file: Path) -> dict[str, np.ndarray]:
    return load_tensors(file.parent, file.name)


def _with(folder: Path, wanted: Callable[[str], bool]) -> tuple[Path, dict[str, np.ndarray]]:
    """The file in the middle of those that have a wanted tensor, and its tensors."""
    files = [file for file in sorted(folder.glob("*.safetensors")) if any(map(wanted, _file_tensors(file)))]
    file = files[len(files) // 2]
    return file, _file_tensors(file)


def _swap(name: str, tensor: np.ndarray) -> np.ndarray:
    if name.endswith(".codes"):  # one code a byte: neighbours change places
        return np.ascontiguousarray(tensor.reshape(*tensor.shape[:-1], -1, 2)[..., ::-1]).reshape(tensor.shape)
    packed = np.ascontiguousarray(tensor).view(np.uint8)
    return (packed << 4 | packed >> 4).view(tensor.dtype).reshape(tensor.shape)


def _gguf(folder: Path) -> GGUF | None:
    return open_gguf(folder / "model.gguf") if (folder / "model.gguf").is_file() else None


def _middle(tensors: Mapping[str, GGUFTensor], ending: str) -> GGUFTensor:
    layers = [tensor for name, tensor in tensors.items() if name.endswith(ending)]
    return layers[len(layers) // 2]


def _edit(gguf: GGUF, tensor: GGUFTensor, change: Callable[[np.ndarray, str], None]) -> None:
    """Change the bytes of a tensor in the file, shape [blocks, bytes of one]."""
    data = np.memmap(gguf.path, np.uint8, "r+", offset=tensor.offset, shape=(tensor.size,))
    block = _BLOCKS[tensor.type][0] if tensor.type in _BLOCKS else {"F32": 4, "F16": 2, "BF16": 2}[tensor.type]
    change(data.reshape(-1, block), tensor.type)
    data.flush()


def _scaled(blocks: np.ndarray, kind: str) -> None:
    if kind in ("F32", "BF16"):  # two more in the exponent, which is from bit 7 of the upper half on
        upper = blocks[:, 2:4] if kind == "F32" else blocks
        numbers = np.ascontiguousarray(upper).view(np.uint16)
        raised = np.where(numbers & 0x7FFF, numbers + (2 << 7), numbers).astype(np.uint16)
        upper[:] = raised.view(np.uint8)
        return
    for start in _BLOCKS[kind][1] if kind in _BLOCKS else [0]:
        scale = np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16)
        blocks[:, start : start + 2] = (scale * np.float16(FACTOR)).view(np.uint8)


def _swapped_codes(blocks: np.ndarray, kind: str) -> None:
    codes = blocks[:, _BLOCKS[kind][2]]
    codes[:] = codes << 4 | codes >> 4


def _shift_tokens(gguf: GGUF) -> None:
    """Exchange pairs of tokens of the same length, so that most words have numbers that mean something else."""
    data: Any = bytearray(gguf.path.read_bytes())
    start = data.find(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 4 + 4 + 8
    waiting: dict[int, int] = {}
    for token in gguf.tokens:
        content = token.encode()
        begin = start + 8
        assert data[begin : begin + len(content)] == content
        start = begin + len(content)
        if content.startswith(b"<"):
            continue
        if (before := waiting.pop(len(content), None)) is None:
            waiting[len(content)] = begin
        else:
            size = len(content)
            data[begin : begin + size], data[before : before + size] = (
                bytes(data[before : before + size]), bytes(data[begin : begin + size]),
            )  # fmt: skip
    gguf.path.write_bytes(data)
