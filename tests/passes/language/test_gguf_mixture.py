import collections
from pathlib import Path

import numpy as np
import pytest

from mopt.model.gguf import open_gguf
from mopt.passes.language._gguf_mixture import MIXTURES, Facts, TensorFacts, choose_types, facts_of, needs_importance
from tests.gguf_files import LLAMA, write_gguf


def _tensors(layers: int, *, experts: int = 0, tied: bool = False, fused: bool = False, width: int = 256) -> list[TensorFacts]:
    """Names and shapes of a model, as llama.cpp's converter has them."""
    shapes = {"token_embd.weight": (64, width), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (64, width)
    square = ["attn_qkv", "attn_output"] if fused else ["attn_q", "attn_k", "attn_v", "attn_output"]
    square += [] if experts else ["ffn_gate", "ffn_up", "ffn_down"]
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}.weight": (width, width) for name in square}
        shapes[f"blk.{layer}.attn_norm.weight"] = (width,)
        if experts:
            shapes[f"blk.{layer}.ffn_gate_inp.weight"] = (experts, width)
            shapes |= {f"blk.{layer}.ffn_{name}_exps.weight": (experts, width, width) for name in ("gate", "up", "down")}
    small = ("norm.weight", "inp.weight")
    return [TensorFacts(name, shape, "F32" if name.endswith(small) else "F16") for name, shape in shapes.items()]


def _facts(layers: int, **changes: object) -> Facts:
    given = {"architecture": "llama", "layers": layers, "grouped": 1, "experts": 0, "tied": False, "importance": False}
    return Facts(**{**given, **changes})  # type: ignore[arg-type]


MODELS = {
    "dense": (_tensors(17), _facts(17)),
    "eight experts": (_tensors(9, experts=8), _facts(9, grouped=4, experts=8)),
    "four experts": (_tensors(8, experts=4), _facts(8, experts=4)),
    "falcon": (_tensors(16, fused=True), _facts(16, architecture="falcon")),
    "rows of 288": (_tensors(4, width=288), _facts(4, grouped=2)),
    "tied": (_tensors(16, tied=True), _facts(16, grouped=2, tied=True)),
    "80 layers": (_tensors(80), _facts(80, grouped=2, seventy=True)),
    "importance": (_tensors(20), _facts(20, grouped=4, importance=True)),
}
# Counts of matrices by type that llama_model_quantize of llama.cpp build 11549 gave for the same names, shapes and keys.
LLAMA_QUANTIZE = {
    ("dense", "q8_0"): {"Q8_0": 121},
    ("dense", "q2_k"): {"Q2_K": 69, "Q3_K": 51, "Q6_K": 1},
    ("dense", "q3_k_m"): {"Q3_K": 69, "Q4_K": 48, "Q5_K": 3, "Q6_K": 1},
    ("dense", "q3_k_l"): {"Q3_K": 69, "Q5_K": 51, "Q6_K": 1},
    ("dense", "q4_k_s"): {"Q4_K": 114, "Q5_K": 6, "Q6_K": 1},
    ("dense", "q4_k_m"): {"Q4_K": 102, "Q6_K": 19},
    ("dense", "q5_k_m"): {"Q5_K": 102, "Q6_K": 19},
    ("dense", "iq4_xs"): {"IQ4_XS": 118, "Q5_K": 2, "Q6_K": 1},
    ("dense", "iq3_m"): {"IQ3_S": 84, "Q4_K": 36, "Q6_K": 1},
    ("eight experts", "q4_0"): {"F32": 9, "Q4_0": 46, "Q6_K": 1, "Q8_0": 18},
    ("eight experts", "q2_k"): {"F32": 9, "Q2_K": 28, "Q3_K": 9, "Q5_K": 9, "Q6_K": 1, "Q8_0": 18},
    ("eight experts", "q4_k_s"): {"F32": 9, "Q4_K": 36, "Q5_K": 10, "Q6_K": 1, "Q8_0": 18},
    ("eight experts", "q4_k_m"): {"F32": 9, "Q4_K": 32, "Q5_K": 9, "Q6_K": 6, "Q8_0": 18},
    ("four experts", "q3_k_m"): {"F32": 8, "Q3_K": 33, "Q4_K": 22, "Q5_K": 2, "Q6_K": 1},
    ("four experts", "q4_k_m"): {"F32": 8, "Q4_K": 49, "Q6_K": 9},
    ("falcon", "q2_k"): {"Q2_K": 49, "Q3_K": 32, "Q8_0": 1},
    ("falcon", "q3_k_m"): {"Q3_K": 57, "Q4_K": 21, "Q5_K": 3, "Q8_0": 1},
    ("falcon", "q3_k_l"): {"Q3_K": 33, "Q4_K": 32, "Q5_K": 16, "Q8_0": 1},
    ("rows of 288", "q3_k_m"): {"Q4_0": 17, "Q5_0": 10, "Q5_1": 2, "Q8_0": 1},
    ("rows of 288", "q4_k_m"): {"Q5_0": 25, "Q8_0": 5},
    ("rows of 288", "q5_k_m"): {"Q5_1": 25, "Q8_0": 5},
    ("tied", "q4_k_m"): {"Q4_K": 96, "Q6_K": 17},
    ("80 layers", "q4_k_m"): {"Q4_K": 441, "Q5_K": 40, "Q6_K": 81},
    ("80 layers", "q4_k_s"): {"Q4_K": 471, "Q5_K": 90, "Q6_K": 1},
    ("importance", "q4_0"): {"Q4_0": 139, "Q4_1": 2, "Q6_K": 1},
    ("importance", "q2_k_s"): {"Q2_K": 119, "Q4_K": 22, "Q6_K": 1},
    ("importance", "iq4_xs"): {"IQ4_XS": 121, "Q5_K": 20, "Q6_K": 1},
    ("importance", "iq3_xs"): {"IQ3_S": 51, "IQ3_XXS": 70, "Q4_K": 20, "Q6_K": 1},
    ("importance", "iq3_xxs"): {"IQ2_S": 40, "IQ3_S": 21, "IQ3_XXS": 60, "Q4_K": 20, "Q5_K": 1},
    ("importance", "iq2_m"): {"IQ2_S": 98, "IQ3_S": 23, "Q4_K": 20, "Q5_K": 1},
    ("importance", "iq2_xxs"): {"IQ2_XXS": 118, "Q2_K": 3, "Q4_K": 20, "Q5_K": 1},
}


@pytest.mark.parametrize("case", LLAMA_QUANTIZE, ids="-".join)
def test_types_are_those_of_llama_quantize(case: tuple[str, str]) -> None:
    tensors, facts = MODELS[case[0]]
    types = choose_types(case[1], tensors, facts)
    matrices = collections.Counter(types[tensor.name] for tensor in tensors if len(tensor.shape) > 1)
    assert matrices == LLAMA_QUANTIZE[case]
    assert {types[tensor.name] for tensor in tensors if len(tensor.shape) == 1} == {"F32"}


def test_blocks_come_in_their_order() -> None:
    names = list(choose_types("q4_k_m", *MODELS["dense"]))
    assert names[:3] == ["output.weight", "output_norm.weight", "token_embd.weight"]
    assert names.index("blk.9.attn_q.weight") < names.index("blk.10.attn_k.weight")


def test_types_that_are_asked_for() -> None:
    tensors, facts = MODELS["dense"]
    types = choose_types(
        "q4_k_m", tensors, facts, output="Q8_0", embeddings="Q5_K", overrides=[("ffn_down", "Q6_K"), ("ffn_.*", "Q3_K")]
    )
    assert (types["output.weight"], types["token_embd.weight"]) == ("Q8_0", "Q5_K")
    assert {types[f"blk.{layer}.ffn_down.weight"] for layer in range(17)} == {"Q6_K"}
    assert {types[f"blk.{layer}.ffn_up.weight"] for layer in range(17)} == {"Q3_K"}


def test_routers_and_norms_stay() -> None:
    types = choose_types("q4_k_m", *MODELS["eight experts"])
    assert types["blk.0.ffn_gate_inp.weight"] == types["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.parametrize("mixture", MIXTURES)
def test_every_mixture_makes_a_model_smaller(mixture: str) -> None:
    tensors, facts = MODELS["tied"]
    assert "F16" not in choose_types(mixture, tensors, facts).values()


def test_what_needs_an_importance_matrix() -> None:
    assert needs_importance("blk.0.ffn_up.weight", "IQ2_XS", "iq2_xs")
    assert needs_importance("blk.0.ffn_up.weight", "Q2_K", "q2_k_s")
    assert not needs_importance("blk.0.ffn_up.weight", "Q2_K", "q2_k")
    assert not needs_importance("output.weight", "IQ2_XS", "iq2_xs")


def test_facts_are_read_from_the_header(tmp_path: Path) -> None:
    metadata = {**LLAMA, "llama.block_count": 80, "llama.attention.head_count_kv": (2, 1), "llama.expert_count": 8}
    gguf = open_gguf(write_gguf(tmp_path / "model.gguf", metadata, {"token_embd.weight": (np.zeros((4, 32)), 1)}))
    facts = facts_of(gguf, importance=True)
    assert facts == Facts(architecture="llama", layers=80, grouped=2, experts=8, tied=True, importance=True, seventy=True)
