"""Which layers are quantized, and how."""

from __future__ import annotations

import pytest

from mopt.errors import UserError
from mopt.model.quantization import Weights
from mopt.passes.language._selection import choose_weights, fitting_group, matches, siblings

Q = "model.layers.3.self_attn.q_proj"


@pytest.mark.parametrize(
    ("inputs", "asked", "expected"),
    [(256, 128, 128), (576, 128, 64), (1536, 128, 128), (96, 64, 32), (80, 32, 16), (100, 32, 0), (100, 0, 0), (7, -1, -1)],
)
def test_a_group_divides_the_inputs(inputs: int, asked: int, expected: int) -> None:
    assert fitting_group(inputs, asked) == expected


@pytest.mark.parametrize("name", ["model.layers.0.mlp.gate", "model.layers.0.block_sparse_moe.gate", "m.0.shared_expert_gate"])
def test_a_router_is_left(name: str) -> None:
    assert choose_weights(name, 256, Weights()).weights is None


def test_a_gate_projection_is_no_router() -> None:
    assert choose_weights("model.layers.0.mlp.gate_proj", 256, Weights()).weights == Weights()


def test_a_vision_tower_is_left() -> None:
    assert choose_weights("vision_tower.layers.0.q_proj", 256, Weights()).reason == "is not of the text"


@pytest.mark.parametrize("pattern", ["*.q_proj", "re:layers\\.3\\.", "model.layers.3.self_attn.q_proj"])
def test_a_pattern_leaves_a_layer_and_is_named_as_the_reason(pattern: str) -> None:
    choice = choose_weights(Q, 256, Weights(), leave=(pattern,))
    assert choice.weights is None
    assert pattern in choice.reason


def test_the_first_choice_of_bits_that_fits_decides() -> None:
    layers = (("*.k_proj", 16, 0), ("*.q_proj", 8, 64), ("*", 16, 0))
    assert choose_weights(Q, 256, Weights(), layers=layers).weights == Weights(bits=8, group_size=64)
    assert choose_weights("model.layers.3.mlp.up_proj", 256, Weights(), layers=layers).weights is None


def test_a_layer_without_a_fitting_group_is_left_with_the_reason() -> None:
    assert "100 inputs" in choose_weights(Q, 100, Weights()).reason


def test_a_format_of_fixed_blocks_takes_no_smaller_ones() -> None:
    choice = choose_weights(Q, 48, Weights(kind="mxfp4", group_size=32))
    assert choice.weights is None
    assert "demands" in choice.reason


def test_what_servers_compute_as_one_is_of_one_unit() -> None:
    assert siblings(Q) == siblings("model.layers.3.self_attn.v_proj") != siblings("model.layers.3.self_attn.o_proj")
    assert siblings("m.experts.1.w1") == siblings("m.experts.1.w3") != siblings("m.experts.2.w1")


def test_an_expression_that_is_none_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="regular expression"):
        matches(Q, "re:(")
