"""Which type each tensor of a GGUF gets in one of llama.cpp's mixtures: the rules of llama-quantize, build 11549.

The wheel of llama.cpp has the kernels that quantize, and not this choice: it is made here, from names and shapes.
"""

from __future__ import annotations

__all__ = ["MIXTURES", "Facts", "TensorFacts", "choose_types", "facts_of", "needs_importance"]

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from mopt.model.gguf import BLOCKS, GGUF

MIXTURES = {
    "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1", "q8_0": "Q8_0", "q2_k": "Q2_K", "q2_k_s": "Q2_K",
    "q3_k_s": "Q3_K", "q3_k_m": "Q3_K", "q3_k_l": "Q3_K", "q4_k_s": "Q4_K", "q4_k_m": "Q4_K", "q5_k_s": "Q5_K",
    "q5_k_m": "Q5_K", "q6_k": "Q6_K", "iq4_xs": "IQ4_XS", "iq4_nl": "IQ4_NL", "iq3_s": "IQ3_S", "iq3_m": "IQ3_S",
    "iq3_xs": "IQ3_S", "iq3_xxs": "IQ3_XXS", "iq2_m": "IQ2_S", "iq2_s": "IQ2_XS", "iq2_xs": "IQ2_XS", "iq2_xxs": "IQ2_XXS",
}  # fmt: skip
"""Mixtures, and the type of the tensors for which there is no rule."""
_BLOCK = {name: block for name, block, _ in BLOCKS.values()}
_NEVER = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
    "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight", "time_mix_w0.weight",
    "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
    "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight",
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook",
    "mm.a.code_embd",
)  # fmt: skip
"""Parts of the names of tensors that stay as they are: norms, routers, and what is too small to matter."""
_NEVER_AT_ALL = ("position_embd.weight", "token_types.weight")
_FALLBACK = {
    "IQ2_XXS": "IQ4_NL", "IQ2_XS": "IQ4_NL", "IQ2_S": "IQ4_NL", "IQ3_XXS": "IQ4_NL", "IQ3_S": "IQ4_NL", "IQ4_XS": "IQ4_NL",
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
"""Of types with 256 weights in a block, for rows that are no multiple of it."""
_CATEGORIES = (
    ("attn_qkv.weight", "qkv"), ("attn_kv_b.weight", "kv_b"), ("attn_v.weight", "v"), ("attn_k.weight", "k"),
    ("attn_q.weight", "q"), ("attn_output.weight", "attention_output"), ("ffn_up", "up"), ("ffn_gate", "gate"),
    ("ffn_down", "down"),
)  # fmt: skip
_LIKE_V = ("v", "qkv", "kv_b")
_LOWEST = ("iq2_xxs", "iq2_xs", "iq2_s", "iq2_m")
_OF_70B = ("llama", "deci", "olmo", "qwen2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules look at besides names.

    Attributes:
        architecture: As llama.cpp calls it.
        layers: Blocks of the model.
        grouped: Query heads that share one head of keys and values, in the first block.
        experts: Of each block; 0 for a dense model.
        tied: Whether the embeddings are the output's weights too.
        importance: Whether there is an importance matrix.
        seventy: Whether llama.cpp counts it as a 70B model, whose ``attn_v`` are small.
    """

    architecture: str
    layers: int
    grouped: int
    experts: int
    tied: bool
    importance: bool
    seventy: bool = False


@dataclasses.dataclass(frozen=True)
class TensorFacts:
    """A tensor of the model: its name, its shape ([out, in]) and the type that it has."""

    name: str
    shape: tuple[int, ...]
    type: str


def facts_of(gguf: GGUF, *, importance: bool) -> Facts:
    """Read them from the header."""
    heads, kept = gguf.number("attention.head_count"), gguf.metadata.get(f"{gguf.architecture}.attention.head_count_kv")
    if isinstance(kept, tuple):
        kept = kept[0] if kept else 0
    kept = heads if kept is None else int(kept)
    layers = gguf.number("block_count")
    seventy = gguf.architecture in _OF_70B and layers == 80 and (gguf.architecture != "llama" or heads != kept)
    return Facts(
        architecture=gguf.architecture,
        layers=layers,
        grouped=heads // kept if kept else 0,
        experts=gguf.number("expert_count"),
        tied="output.weight" not in gguf.tensors,
        importance=importance,
        seventy=seventy,
    )


def choose_types(
    mixture: str,
    tensors: Sequence[TensorFacts],
    facts: Facts,
    *,
    output: str = "",
    embeddings: str = "",
    overrides: Sequence[tuple[str, str]] = (),
) -> dict[str, str]:
    """Return the type of each tensor.

    Args:
        mixture: One of :data:`MIXTURES`.
        tensors: All of the model, in any order.
        facts: Of the model.
        output: Type of ``output.weight``, in the place of the rule.
        embeddings: Type of ``token_embd.weight``, in the place of the rule.
        overrides: Regular expressions, each with the type of the tensors in whose name it is found; the first one counts.
    """
    patterns = [(re.compile(pattern), kind) for pattern, kind in overrides]
    rules = _Rules(mixture, facts, sum(_category(tensor.name) in _LIKE_V for tensor in tensors), output, embeddings)
    return {tensor.name: _choose(tensor, rules, patterns) for tensor in sorted(tensors, key=_order)}


def needs_importance(name: str, kind: str, mixture: str) -> bool:
    """Whether a tensor of this type is garbage without an importance matrix, as llama.cpp has it."""
    if name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight"):
        return False
    return kind in ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S") or (kind == "Q2_K" and mixture == "q2_k_s")


def _order(tensor: TensorFacts) -> tuple[int, str]:
    """Tensors outside of blocks come first, then block by block: the rules count in this order."""
    found = re.match(r"blk\.(\d+)\.", tensor.name)
    return (int(found[1]) if found else -1, tensor.name)


def _category(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embeddings"
    return next((category for part, category in _CATEGORIES if part in name), "")


def _stays(tensor: TensorFacts) -> bool:
    dimensions = tensor.shape
    while dimensions and dimensions[0] == 1:  # ggml does not count them
        dimensions = dimensions[1:]
    name = tensor.name
    return (
        len(dimensions) < 2
        or not name.endswith("weight")
        or name in _NEVER_AT_ALL
        or any(part in name for part in _NEVER)
        or tensor.type.startswith(("I8", "I16", "I32", "I64"))
    )


def _choose(tensor: TensorFacts, rules: _Rules, patterns: Sequence[tuple[re.Pattern[str], str]]) -> str:
    if _stays(tensor):
        return tensor.type
    category = _category(tensor.name)
    given = next((kind for pattern, kind in patterns if pattern.search(tensor.name)), "")
    if rules.embeddings and category == "embeddings" and not (given and tensor.name.startswith("per_layer")):
        return rules.embeddings
    if rules.output and category == "output":
        return rules.output
    kind = given or rules.type_of(tensor, category)
    return _fitting(tensor, kind)


def _fitting(tensor: TensorFacts, kind: str) -> str:
    """The type, or the nearest one whose blocks divide the rows."""
    columns = tensor.shape[-1]
    if columns % _BLOCK[kind] == 0:
        return kind
    smaller = _FALLBACK.get(kind, kind)
    return smaller if columns % _BLOCK[smaller] == 0 else "F16"


class _Rules:
    """The rules of one mixture, with the counters that they go by."""

    def __init__(self, mixture: str, facts: Facts, count_v: int, output: str, embeddings: str) -> None:
        self.mixture, self.facts, self.output, self.embeddings = mixture, facts, output, embeddings
        self._count_v = count_v
        self._seen = {"v": 0, "down": 0, "gate": 0, "up": 0}
        self._by_category: Mapping[str, Callable[[str, TensorFacts], str]] = {
            "k": lambda kind, tensor: self._key(kind),
            "q": lambda kind, tensor: {"iq3_xs": "IQ3_XXS", "iq3_xxs": "IQ2_S"}.get(self.mixture, kind),
            "down": self._down,
            "attention_output": lambda kind, tensor: self._attention_output(kind),
            "gate": lambda kind, tensor: self._gate_or_up(kind, tensor, "gate"),
            "up": lambda kind, tensor: self._gate_or_up(kind, tensor, "up"),
        }

    def type_of(self, tensor: TensorFacts, category: str) -> str:
        kind = MIXTURES[self.mixture]
        if category == "output" or (self.facts.tied and category == "embeddings"):
            return self._output(kind, tensor)
        if category == "embeddings":
            return {"iq2_xxs": "Q2_K", "iq2_xs": "Q2_K", "iq2_s": "IQ3_S", "iq2_m": "IQ3_S", "iq3_xxs": "IQ3_S"}.get(
                self.mixture, kind
            )
        if self.mixture in _LOWEST:
            return self._lowest(kind, category)
        if category in _LIKE_V:
            return self._value(kind)
        return self._by_category[category](kind, tensor) if category in self._by_category else kind

    def _output(self, kind: str, tensor: TensorFacts) -> str:
        if self.output:
            return self.output
        if self.facts.architecture == "falcon" or tensor.shape[-1] % _BLOCK[kind]:
            return "Q8_0"
        if self.mixture in ("iq2_xxs", "iq2_xs", "iq3_xxs", "iq2_s", "iq2_m"):
            return "Q5_K"
        return kind if kind == "Q8_0" else "Q6_K"

    def _lowest(self, kind: str, category: str) -> str:
        better = "IQ3_S" if self.mixture in ("iq2_s", "iq2_m") else "Q2_K"
        if category in _LIKE_V:
            self._seen["v"] += 1
            return "Q4_K" if self.facts.grouped >= 4 or self.facts.experts >= 4 else better
        if category == "k" and self.facts.experts == 8:
            return "Q4_K"
        if category == "down":
            self._seen["down"] += 1
            return better if self._seen["down"] - 1 < self.facts.layers // 8 else kind
        if category == "attention_output":
            if self.facts.experts == 8:
                return "Q5_K"
            return "IQ3_S" if better == "IQ3_S" else kind
        return kind

    def _value(self, kind: str) -> str:
        """Values, which matter most of all in attention."""
        index, grouped = self._seen["v"], self.facts.grouped >= 4
        self._seen["v"] += 1
        mixture = self.mixture
        if mixture == "q2_k":
            kind = "Q4_K" if grouped else "Q3_K"
        elif mixture == "iq3_xxs":
            kind = "Q4_K" if grouped else "IQ3_XXS" if self.facts.importance else "IQ3_S"
        elif (mixture in ("q2_k_s", "iq3_xs", "iq3_s") and grouped) or mixture == "iq3_m":
            kind = "Q4_K"
        elif mixture == "q3_k_m":
            kind = "Q5_K" if index < 2 else "Q4_K"
        elif mixture == "q3_k_l" or (mixture in ("iq4_nl", "iq4_xs") and grouped):
            kind = "Q5_K"
        elif mixture in ("q4_k_m", "q5_k_m") and _more_bits(index, self._count_v):
            kind = "Q6_K"
        elif mixture == "q4_k_s" and index < 4:
            kind = "Q5_K"
        if self.facts.seventy and kind in ("Q3_K", "Q4_K"):
            kind = "Q5_K"
        return "Q8_0" if self.facts.experts == 8 else kind

    def _key(self, kind: str) -> str:
        if self.facts.experts == 8:
            return "Q8_0"
        return {"iq3_xs": "IQ3_XXS", "iq3_xxs": "IQ2_S"}.get(self.mixture, kind)

    def _layer(self, tensor: TensorFacts, category: str) -> int:
        """Of a mixture of experts the block in its name, else how many of this kind came before."""
        index = self._seen[category]
        self._seen[category] += 1
        return _order(tensor)[0] if self.facts.experts > 1 else index

    def _down(self, kind: str, tensor: TensorFacts) -> str:
        layer, layers, mixture = self._layer(tensor, "down"), self.facts.layers, self.mixture
        falcon, importance = self.facts.architecture == "falcon", self.facts.importance
        early, more = layer < layers // 8, _more_bits(layer, layers)
        if mixture == "q2_k":
            return "Q3_K"
        if mixture == "q2_k_s":
            return "Q4_K" if early else kind
        if mixture == "iq3_xxs" and not importance:
            return "Q4_K" if early else "Q3_K"
        if mixture == "q3_k_m":
            return "Q5_K" if layer < layers // 16 else "Q4_K" if not falcon or more else "Q3_K"
        if mixture == "iq3_m":
            return "Q4_K" if early or (self.facts.experts == 8 and more) else kind
        if mixture == "q3_k_l":
            return "Q4_K" if falcon else "Q5_K"
        if mixture == "q4_k_m" and falcon:
            return "Q6_K" if layer < layers // 16 else "Q5_K" if more else "Q4_K"
        if mixture in ("q4_k_m", "q5_k_m"):
            return "Q6_K" if more else kind
        if mixture in ("iq4_nl", "iq4_xs"):
            return "Q5_K" if early and not importance else kind
        if mixture == "q4_k_s":
            return "Q5_K" if early and not falcon else kind
        if mixture in ("q4_0", "q5_0") and importance and early:
            return {"q4_0": "Q4_1", "q5_0": "Q5_1"}[mixture]
        return kind

    def _attention_output(self, kind: str) -> str:
        mixture = self.mixture
        if self.facts.architecture == "falcon":
            return "Q4_K" if mixture == "q3_k_l" else kind
        if self.facts.experts == 8:
            raised = ("q2_k", "iq3_xs", "iq3_xxs", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s", "iq3_m", "iq4_xs")
            return "Q5_K" if mixture in raised else kind
        rules = {"q2_k": "Q3_K", "iq3_xxs": "IQ3_S", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K", "iq3_m": "Q4_K"}
        return rules.get(mixture, kind)

    def _gate_or_up(self, kind: str, tensor: TensorFacts, category: str) -> str:
        layer, layers = self._layer(tensor, category), self.facts.layers
        middle = layers // 8 <= layer < 7 * layers // 8
        return "IQ3_XXS" if self.mixture == "iq3_xs" and middle else kind


def _more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
