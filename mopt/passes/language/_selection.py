"""Which linear layers are quantized, and how each of them."""

from __future__ import annotations

__all__ = ["UNQUANTIZED_BITS", "LayerChoice", "choose_weights", "matches", "siblings"]

import dataclasses
import fnmatch
import re
from collections.abc import Iterable

from mopt.errors import UserError
from mopt.model.quantization import Weights

UNQUANTIZED_BITS = 16
"""Bits of a layer that is left as it is."""
LayerChoice = tuple[str, int, int]
"""A pattern of layers, their bits and their group size."""
_ROUTER = re.compile(r"(^|\.)(router|gate|shared_expert_gate)$")
_TOWER = re.compile(r"(^|\.)(vision_tower|vision_model|visual|audio_tower|multi_modal_projector)(\.|$)")
_SHARED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up",
    "w1": "gate_up", "w3": "gate_up",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Choice:
    """What happens to a layer: weights, or None and the reason."""

    weights: Weights | None
    reason: str = ""


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern is of a layer: ``re:`` and a regular expression that is searched for, or shell wildcards for all of it.

    Raises:
        UserError: When the expression is none.
    """
    if pattern.startswith("re:"):
        try:
            return re.search(pattern[3:], name) is not None
        except re.error as error:
            raise UserError(f"{pattern} is no regular expression: {error}", "see the documentation of Python's re") from None
    return fnmatch.fnmatchcase(name, pattern)


def choose_weights(
    name: str, inputs: int, scheme: Weights, leave: Iterable[str] = (), layers: Iterable[LayerChoice] = ()
) -> Choice:
    """Choose how the weights of a layer are held.

    Args:
        name: Of the layer.
        inputs: Of the layer.
        scheme: Of layers that nothing else is said of.
        leave: Patterns of layers that stay as they are.
        layers: Patterns with bits and group size; the first that is of the layer decides. 16 bits leave it.
    """
    if _ROUTER.search(name):
        return Choice(None, "chooses the experts of a token")
    if _TOWER.search(name):
        return Choice(None, "is not of the text")
    for pattern in leave:
        if matches(name, pattern):
            return Choice(None, f"left by the option: {pattern}")
    weights = scheme
    for pattern, bits, group_size in layers:
        if matches(name, pattern):
            if bits >= UNQUANTIZED_BITS:
                return Choice(None, f"stays in {bits} bits by the option: {pattern}")
            weights = dataclasses.replace(scheme, bits=bits, group_size=group_size)
            break
    group = fitting_group(inputs, weights.group_size)
    if group == 0 and weights.group_size > 0:
        return Choice(
            None, f"its {inputs} inputs have no common divisor with groups of {weights.group_size} that is a power of two"
        )
    if group != weights.group_size and weights.kind != "int":
        return Choice(None, f"its {inputs} inputs are no multiple of {weights.group_size}, which the format demands")
    return Choice(dataclasses.replace(weights, group_size=group))


def fitting_group(inputs: int, group_size: int) -> int:
    """Return a size that divides the inputs: the one asked for, or the largest power of two that divides both.

    0 where that is less than 16; sizes that are none (a whole row, a whole matrix) are returned as they are.
    """
    if group_size <= 0 or inputs % group_size == 0:
        return group_size
    power = 1
    while inputs % (2 * power) == 0 and group_size % (2 * power) == 0:
        power *= 2
    return power if power >= 16 else 0


def siblings(name: str) -> str:
    """Return what layers share that a server computes as one, and that must be of one scheme: q, k and v; gate and up."""
    parent, _, leaf = name.rpartition(".")
    return f"{parent}.{_SHARED.get(leaf, leaf)}"
