"""What a quantization will take, from the sizes of the checkpoint and what this machine does in a second."""

from __future__ import annotations

__all__ = ["Estimate", "estimate", "estimate_with"]

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

from mopt.model.checkpoint import Checkpoint
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language._rates import measure_rates
from mopt.passes.language._selection import choose_weights
from mopt.system.environments import interpreter_of
from mopt.system.process import run

_BLOCK = re.compile(r"^(?P<prefix>.*\.(layers|h|blocks)\.(?P<index>\d+)\.)(?P<name>.+)\.weight$")
_TOKENS = 1024
"""That pass through a block together."""
_SEARCH_ROWS = 1 << 20
_WORKING = 6
"""Copies of some rows that a search for scales holds."""
_CALLS = 4.0
"""What 1024 tokens cost in a block besides products (attention, norms, activations, files), in products with a matrix of 1024
by 1024, where the hidden states are 1024 wide."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a pass will take.

    Attributes:
        memory: Resident bytes at most, of the process that quantizes.
        seconds: In all.
        disk: Bytes at most below the folder of the result, what is needed to go on included.
    """

    memory: int
    seconds: float
    disk: int


@dataclasses.dataclass(frozen=True)
class _Matrix:
    """A linear layer: outputs, inputs, bytes of a number, and the bits of its quantized weights (16 where it is left)."""

    name: str
    outputs: int
    inputs: int
    width: int
    bits: float
    quantized: bool

    @property
    def weights(self) -> int:
        return self.outputs * self.inputs


def estimate(checkpoint: Checkpoint, step: BlockwisePass) -> Estimate:
    """Estimate memory, seconds and disk of a pass on a checkpoint.

    Takes some seconds: the environment of the pass measures how fast this machine is, beside whatever else it does.

    Raises:
        MissingEnvironmentError: When the environment of the pass is not installed.
    """
    rates: dict[str, float] = run(measure_rates, python=interpreter_of(step.tools))
    return estimate_with(checkpoint, step, rates)


def estimate_with(checkpoint: Checkpoint, step: BlockwisePass, rates: Mapping[str, float]) -> Estimate:
    """Estimate from rates that were measured before; see :func:`mopt.passes.language._rates.measure_rates`."""
    blocks = _blocks(checkpoint, step)
    seconds = sum(_seconds(block, checkpoint, step, rates) for block in blocks)
    # Everything is read and written once, and read once more for its digest.
    seconds += checkpoint.size * 4 * rates["read"] + rates["start"] + 1.0
    memory = max((_memory(block, checkpoint, step) for block in blocks), default=0)
    return Estimate(int(rates["libraries"]) + memory, seconds, _disk(checkpoint, step, blocks))


def _blocks(checkpoint: Checkpoint, step: BlockwisePass) -> list[list[_Matrix]]:
    blocks: dict[int, list[_Matrix]] = {}
    for tensor, entry in checkpoint.tensors.items():
        match = _BLOCK.match(tensor)
        if match is None or len(entry.shape) != 2:
            continue
        outputs, inputs = entry.shape
        name = tensor.removesuffix(".weight")
        weights = choose_weights(name, inputs, step.weights, step.leave, step.layers).weights
        bits = 8.0 * entry.size / max(1, math.prod(entry.shape)) if weights is None else weights.bits_per_weight(inputs)
        matrix = _Matrix(name, outputs, inputs, entry.size // max(1, outputs * inputs), bits, weights is not None)
        blocks.setdefault(int(match["index"]), []).append(matrix)
    return [blocks[index] for index in sorted(blocks)]


def _tokens(step: BlockwisePass) -> int:
    return step.windows.count * step.windows.length if step.calibrates and step.windows is not None else 0


def _hidden(checkpoint: Checkpoint) -> int:
    return int(checkpoint.text_config.get("hidden_size") or checkpoint.text_config.get("n_embd") or 1024)


def _uses_hessians(step: BlockwisePass) -> bool:
    return step.calibrates and ("gptq" in step.algorithm or "awq" in step.algorithm)


def _active(block: Iterable[_Matrix], checkpoint: Checkpoint) -> float:
    """Weights that a token meets: of experts only those that the router chooses."""
    config = checkpoint.text_config
    experts = config.get("num_local_experts") or config.get("num_experts") or 0
    share = float(config.get("num_experts_per_tok") or 1) / float(experts) if experts else 1.0
    return sum(matrix.weights * (share if ".experts." in matrix.name else 1.0) for matrix in block)


def _seconds(block: list[_Matrix], checkpoint: Checkpoint, step: BlockwisePass, rates: Mapping[str, float]) -> float:
    quantized = [matrix for matrix in block if matrix.quantized]
    weights = sum(matrix.weights for matrix in quantized)
    searches = getattr(step, "search", "autoround" in step.algorithm)
    kind = ("search" if step.weights.symmetric else "search_zeros") if searches else "round"
    # Rounding, the error of the result, and four readings: check, rounding and error twice.
    seconds = weights * (rates[kind] + rates["round"] + 4 * 2 * rates["read"])
    tokens = _tokens(step)
    if not tokens:
        return seconds
    return seconds + _calibration_seconds(block, checkpoint, step, rates, tokens)


def _calibration_seconds(
    block: list[_Matrix], checkpoint: Checkpoint, step: BlockwisePass, rates: Mapping[str, float], tokens: int
) -> float:
    product, quantized = rates["product"], [matrix for matrix in block if matrix.quantized]
    batch_cost = _CALLS * product * 2048 * 1024 * 1024 * (_hidden(checkpoint) / 1024)
    forward = tokens * _active(block, checkpoint) * product + tokens / _TOKENS * batch_cost
    # A pass that measures as it goes sees the four stages of a block begin after 0, 1/5, 1/3 and 2/3 of it.
    measured = 1.2 * forward
    seconds = forward
    if "autoround" in step.algorithm:
        steps = getattr(step, "iters", 0) * min(tokens, getattr(step, "tokens", 0))
        weights = sum(matrix.weights for matrix in quantized)
        # Forward, the gradients of inputs and of weights; rounding of all weights there and back.
        seconds += forward + measured + 3 * forward * steps / tokens
        seconds += getattr(step, "iters", 0) * weights * rates["round"] * 4 * max(1.0, min(tokens, step.tokens) / _TOKENS)  # type: ignore[attr-defined]
    elif step.needs_windows or "gptq" in step.algorithm or "smoothquant" in step.algorithm:
        seconds += measured
    shared = {(_stem(matrix.name), matrix.inputs) for matrix in quantized}
    if "awq" in step.algorithm:
        seconds += measured + sum(tokens * inputs * inputs * product for _, inputs in shared)
        seconds += sum(19 * matrix.weights * (matrix.inputs * product + 1.5 * rates["round"]) for matrix in quantized)
    if "gptq" in step.algorithm:
        seconds += sum((tokens + inputs) * inputs * inputs * product for _, inputs in shared)
        for matrix in quantized:
            seconds += matrix.inputs * (rates["column"] + matrix.outputs * rates["column_weight"])
            seconds += matrix.weights * matrix.inputs / 2 * product
    return seconds


def _stem(name: str) -> str:
    """What layers share that have the same inputs."""
    return re.sub(r"(q|k|v)_proj$", "qkv", re.sub(r"(gate|up)_proj$", "gate_up", name))


def _memory(block: list[_Matrix], checkpoint: Checkpoint, step: BlockwisePass) -> int:
    """Bytes besides the libraries."""
    largest = max((matrix.weights for matrix in block if matrix.quantized), default=0)
    inner = max((matrix.outputs for matrix in block), default=0)
    codes = sum(matrix.weights for matrix in block if matrix.quantized)
    search = _WORKING * 4 * min(largest, _SEARCH_ROWS)
    matrix = 4 * largest
    memory = codes + matrix + search
    tokens = _tokens(step)
    if tokens:
        length = step.windows.length if step.windows else 0
        memory += 4 * max(min(_TOKENS, (1 << 20) // _hidden(checkpoint)), length) * (6 * _hidden(checkpoint) + 3 * inner)
    if _uses_hessians(step):
        memory += max(4 * matrix.inputs**2 for matrix in block if matrix.quantized)
    if "awq" in step.algorithm:
        memory += 2 * 4 * largest
    if "autoround" in step.algorithm:
        # Weights, what is tuned, its gradients, the best so far, and what autograd keeps of the rounding.
        memory += 4 * codes * 9
    return memory


def _disk(checkpoint: Checkpoint, step: BlockwisePass, blocks: list[list[_Matrix]]) -> int:
    inside = {f"{matrix.name}.weight": matrix for block in blocks for matrix in block}
    size = 0.0
    for name, entry in checkpoint.tensors.items():
        matrix = inside.get(name)
        if matrix is not None and matrix.quantized:
            # The neutral form has a byte for a code, and scales in four.
            group = step.weights.group_size if step.weights.group_size > 0 else matrix.inputs
            size += matrix.weights * (1 + 4 / group)
        else:
            size += entry.size
    streams = 2 * (2 if step.needs_reference else 1)
    return int(size + streams * _tokens(step) * _hidden(checkpoint) * 4)
