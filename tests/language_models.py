"""Language models for tests: small checkpoints as transformers saves them, written with NumPy alone.

    folder = TinyModel().write(tmp_path / "model")
    folder = TinyModel(architecture="Qwen2ForCausalLM", biases=True, tied=True, shards=2).write(tmp_path / "model")

The weights are random, but what they say is not flat: the likeliest token of a prompt is clearly ahead, so that greedy answers
of two runtimes can be compared. The tokenizer is a small BPE with bytes to fall back on, the same in ``tokenizer.json`` and in
SentencePiece's ``tokenizer.model``. Each model is the same every time.
"""

from __future__ import annotations

__all__ = ["TEMPLATE", "TinyModel", "load_tensors", "save_tensors", "tokenizer_files", "vocabulary"]

import dataclasses
import functools
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
_MODEL_TYPES = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral", "Qwen3MoeForCausalLM": "qwen3_moe", "Phi3ForCausalLM": "phi3",
}  # fmt: skip
_DTYPES = {
    "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8),
    "I16": np.dtype(np.int16), "I32": np.dtype(np.int32), "I64": np.dtype(np.int64), "BOOL": np.dtype(np.bool_),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "F64": np.dtype(np.float64),
}  # fmt: skip
_WORDS = """
    the of and to a in that it is was he for as with his on be at by I this had not are but from or have an they which
    you were her all she there would their we him been has when who will more no if out so said what up its about into
    than them can only other new some could time these two may then do first any my now such like our over man me even
    most made after also did many before must through back years where much your way well down should because each just
    those people how too little state good very make world still own see men work long get here between both life being
    under never day same another know while last might us great old year off come since against go came right used take
    three
"""
_LICENCE = "Made for tests; dedicated to the public domain (CC0 1.0).\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A causal language model of a shape; layers of other architectures are called and put together as theirs are.

    Attributes:
        architecture: Class of transformers. Mixtral and Qwen3Moe take ``experts``, Phi3 fuses its projections, Qwen3 and
            Qwen3Moe have norms of heads; one that is not known here is laid out as Llama and called what its name says.
        layers: Decoder blocks.
        hidden: Width.
        inner: Width of the feed-forward network, or of each expert.
        heads: Of attention.
        groups: Of heads that share keys and values.
        experts: Of each block, of which two answer; 0 for none.
        tied: Whether the output layer is the embedding.
        biases: Whether query, key and value have them.
        template: Whether there is a chat template.
        shards: Files of weights.
        positions: Tokens that it takes.
        dtype: As safetensors calls it.
        seed: Of the weights.
    """

    architecture: str = "LlamaForCausalLM"
    layers: int = 2
    hidden: int = 128
    inner: int = 256
    heads: int = 2
    groups: int = 1
    experts: int = 0
    tied: bool = False
    biases: bool = False
    template: bool = True
    shards: int = 1
    positions: int = 256
    dtype: str = "BF16"
    seed: int = 0

    def write(self, folder: Path) -> Path:
        """Write the whole folder; return it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config(), indent=2), encoding="utf-8")
        generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "do_sample": False}
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
        for name, content in tokenizer_files(self.positions, template=self.template).items():
            (folder / name).write_bytes(content)
        (folder / "LICENSE").write_text(_LICENCE, encoding="utf-8")
        (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# For tests\n", encoding="utf-8")
        self._write_weights(folder)
        return folder

    def config(self) -> dict[str, Any]:
        """Return ``config.json``."""
        settings = {
            "architectures": [self.architecture],
            "model_type": _MODEL_TYPES.get(self.architecture, self.architecture.removesuffix("ForCausalLM").lower()),
            "vocab_size": len(vocabulary()), "hidden_size": self.hidden, "intermediate_size": self.inner,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.groups,
            "head_dim": self.hidden // self.heads, "max_position_embeddings": self.positions, "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": self.tied, "attention_bias": self.biases,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "torch_dtype": "bfloat16",
        }  # fmt: skip
        if self.architecture.startswith("Mixtral"):
            settings |= {"num_local_experts": self.experts, "num_experts_per_tok": 2, "sliding_window": None}
        elif self.experts:
            settings |= {
                "num_experts": self.experts, "num_experts_per_tok": 2, "moe_intermediate_size": self.inner,
                "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
            }  # fmt: skip
        return settings

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor, in the order in which they are drawn."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(vocabulary()), self.hidden)}
        for layer in range(self.layers):
            shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in self._block()}
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (len(vocabulary()), self.hidden)
        return shapes

    def tensors(self) -> dict[str, np.ndarray]:
        """Return all weights, of the model's own type."""
        random = np.random.default_rng(self.seed)
        return {name: self._draw(name, shape, random).astype(_DTYPES[self.dtype]) for name, shape in self.shapes().items()}

    def _draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        values = random.standard_normal(shape).astype(np.float32)
        if name.endswith("norm.weight"):
            return 1 + 0.1 * values
        if name.endswith("bias"):
            return 0.1 * values
        logits = name == "lm_head.weight" or (self.tied and name == "model.embed_tokens.weight")
        return values * (6 if logits else 1) / math.sqrt(shape[-1])

    def _block(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, size = self.hidden, self.hidden // self.heads
        query, key = self.heads * size, self.groups * size
        yield "input_layernorm.weight", (hidden,)
        if self.architecture.startswith("Phi3"):
            yield "self_attn.qkv_proj.weight", (query + 2 * key, hidden)
        else:
            for name, rows in (("q_proj", query), ("k_proj", key), ("v_proj", key)):
                yield f"self_attn.{name}.weight", (rows, hidden)
                if self.biases:
                    yield f"self_attn.{name}.bias", (rows,)
        if self.architecture.startswith("Qwen3"):
            yield from (("self_attn.q_norm.weight", (size,)), ("self_attn.k_norm.weight", (size,)))
        yield "self_attn.o_proj.weight", (hidden, query)
        yield "post_attention_layernorm.weight", (hidden,)
        yield from self._feed_forward()

    def _feed_forward(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, inner = self.hidden, self.inner
        if self.architecture.startswith("Phi3"):
            yield from (("mlp.gate_up_proj.weight", (2 * inner, hidden)), ("mlp.down_proj.weight", (hidden, inner)))
            return
        mixtral = self.architecture.startswith("Mixtral")
        home, names = ("block_sparse_moe", ("w1", "w3", "w2")) if mixtral else ("mlp", ("gate_proj", "up_proj", "down_proj"))
        if self.experts:
            yield f"{home}.gate.weight", (self.experts, hidden)
        for expert in range(self.experts or 1):
            prefix = f"{home}.experts.{expert}" if self.experts else home
            for name, shape in zip(names, ((inner, hidden), (inner, hidden), (hidden, inner)), strict=True):
                yield f"{prefix}.{name}.weight", shape

    def _write_weights(self, folder: Path) -> None:
        tensors = self.tensors()
        if self.shards == 1:
            save_tensors(folder / "model.safetensors", tensors)
            return
        names = list(tensors)
        places: dict[str, str] = {}
        for index in range(self.shards):
            file = f"model-{index + 1:05}-of-{self.shards:05}.safetensors"
            part = names[index * len(names) // self.shards : (index + 1) * len(names) // self.shards]
            save_tensors(folder / file, {name: tensors[name] for name in part})
            places |= dict.fromkeys(part, file)
        size = sum(tensor.nbytes for tensor in tensors.values())
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=1)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            stream.write(np.ascontiguousarray(tensor).tobytes())


def load_tensors(folder: Path, pattern: str = "*.safetensors") -> dict[str, np.ndarray]:
    """Return all tensors of the safetensors files in a folder, of their own types."""
    tensors = {}
    for path in sorted(folder.glob(pattern)):
        data = path.read_bytes()
        start = 8 + struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:start]).items():
            if name != "__metadata__":
                begin, end = (start + offset for offset in entry["data_offsets"])
                tensors[name] = np.frombuffer(data[begin:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Return the pieces: three special tokens, 256 bytes, the beginnings of common words, single characters."""
    words = list(dict.fromkeys(f"▁{word}" for word in _WORDS.split()))
    longer = dict.fromkeys(word[:end] for word in words for end in range(2, len(word) + 1))
    characters = ["▁", *map(chr, range(33, 127))]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *longer, *characters]
    return tuple(pieces + [f"<extra_{index}>" for index in range(-len(pieces) % 128)])


def tokenizer_files(positions: int, *, template: bool = True) -> dict[str, bytes]:
    """Return ``tokenizer.json``, ``tokenizer.model`` and ``tokenizer_config.json``."""
    settings = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>",
        "add_bos_token": True, "add_eos_token": False, "legacy": False, "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
    } | ({"chat_template": TEMPLATE} if template else {})  # fmt: skip
    return {
        "tokenizer.json": json.dumps(_tokenizer_json(), ensure_ascii=False).encode(),
        "tokenizer.model": _sentencepiece(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
    }


def _tokenizer_json() -> dict[str, Any]:
    pieces = vocabulary()
    ids = {piece: index for index, piece in enumerate(pieces)}
    halves = ((piece[:cut], piece[cut:]) for piece in pieces[259:] for cut in range(1, len(piece)))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    start, sequence = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": pieces[index], **flags} for index in range(3)],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, sequence],
            "pair": [start, sequence, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [list(pair) for pair in halves if pair[0] in ids and pair[1] in ids],
        },
    }


def _sentencepiece() -> bytes:
    """SentencePiece's ``ModelProto``: pieces with scores and types, that it is BPE, and that text is not normalized."""
    model = b""
    for index, piece in enumerate(vocabulary()):
        kind = 2 if index == 0 else 3 if index < 3 else 6 if index < 259 else 5 if piece.startswith("<extra_") else 1
        score = struct.pack("<f", -float(index - 259) if kind == 1 else 0.0)
        model += _field(1, _field(1, piece.encode()) + b"\x15" + score + _number(3, kind))
    trainer = _number(3, 2) + _number(4, len(vocabulary())) + _number(35, 1) + _number(40, 0) + _number(41, 1) + _number(42, 2)
    normalizer = _field(1, b"identity") + _number(3, 1) + _number(4, 0) + _number(5, 1)
    return model + _field(2, trainer) + _field(3, normalizer)


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low]) if not rest else bytes([low | 128]) + _varint(rest)


def _number(tag: int, value: int) -> bytes:
    return _varint(tag << 3) + _varint(value)


def _field(tag: int, content: bytes) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(content)) + content
