"""How much the quality of a language model suffers when one of its layers alone is lowered."""

from __future__ import annotations

__all__ = ["Choice", "observe_language_sensitivity", "units_of"]

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.model.quantization import Weights
from mopt.model.tokens import TokenWindows
from mopt.passes.language._mixed import LayerOption, LayerUnit
from mopt.passes.language._selection import UNQUANTIZED_BITS, choose_weights

if TYPE_CHECKING:
    from mopt.passes.language._architecture import Architecture, Block
    from mopt.passes.language._calibration import BlockWork, Stream
    from mopt.passes.language._layer import Layer

Choice = tuple[int, int]
"""Bits and group size."""


def observe_language_sensitivity(
    folder: str, windows: TokenWindows, choices: Sequence[Choice], symmetric: bool = True, leave: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Measure for every unit of layers what each choice of bits does to the hidden states after its block.

    The blocks compute in the source's precision, one after the other. In each of them the layers of a unit (those that a server
    computes as one) are rounded alone, with scales searched by the inputs' squares, and ``loss`` is what that does to the
    block's output: ``mean |h' - h|^2 / mean |h|^2`` over the tokens. A residual stream carries such an error to the end with
    little change, so that the values of all blocks compare; errors of different layers hardly correlate, so that they add up.

    Runs in the environment ``llm_compressor``, and returns JSON data: for each unit ``layers``, ``weights`` and ``options``
    with ``bits``, ``group_size``, ``bits_per_weight`` and ``loss``. 16 bits, with a loss of 0, are always an option.

    Args:
        folder: The checkpoint.
        windows: Real text; 8 windows of 512 tokens are enough.
        choices: Bits and group sizes.
        symmetric: Without zero points.
        leave: Patterns of layers that are not measured.
    """
    from mopt.model.checkpoint import open_checkpoint
    from mopt.passes.language._architecture import Architecture

    architecture = Architecture(open_checkpoint(Path(folder)))
    result: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        stream = _embedded(architecture, windows, Path(scratch))
        arguments = architecture.arguments(windows.length)
        for index in range(architecture.count):
            block = architecture.build(index, arguments[index])
            outputs = _pass_on(block, stream, Path(scratch) / f"{index + 1}.bin")
            schemes = [Weights(bits=bits, group_size=group, symmetric=symmetric) for bits, group in choices]
            result += [_data(*part) for part in _measure_block(block, stream, outputs, schemes, leave)]
            stream.path.unlink()
            stream = outputs
    return result


def units_of(data: Sequence[Mapping[str, Any]]) -> tuple[LayerUnit, ...]:
    """Return what :func:`mopt.passes.language._mixed.choose_mix` takes from what was measured."""
    return tuple(
        LayerUnit(tuple(unit["layers"]), unit["weights"], tuple(LayerOption(**option) for option in unit["options"]))
        for unit in data
    )


_Measured = tuple[tuple["Layer", ...], list[LayerOption]]


def _measure_block(
    block: Block, inputs: Stream, outputs: Stream, schemes: Sequence[Weights], leave: tuple[str, ...]
) -> list[_Measured]:
    from mopt.passes.language._calibration import BlockWork

    targets = {}
    for name, layer in block.layers.items():
        choice = choose_weights(name, layer.shape[1], schemes[0], leave)
        if choice.weights is not None:
            targets[name] = choice.weights
    work = BlockWork(block, targets, None, inputs)
    measured = []
    for stage in work.stages(hessian=False) if targets else ():
        for group, seen in zip(stage.groups, work.measure(stage, hessian=False), strict=True):
            importance = seen.square if seen.tokens else None
            options = [_option(work, group, scheme, importance, outputs) for scheme in schemes]
            left = LayerOption(UNQUANTIZED_BITS, 0, float(UNQUANTIZED_BITS), 0.0)
            measured.append((group, [*(option for option in options if option is not None), left]))
    return measured


def _option(work: BlockWork, group: tuple[Layer, ...], scheme: Weights, importance: Any, outputs: Stream) -> LayerOption | None:
    """Round the layers of a unit alone, and compare the block's outputs."""
    from mopt.passes.language._schemes import encode, find_grid

    inputs = group[0].shape[1]
    weights = choose_weights(group[0].name, inputs, scheme).weights
    if weights is None:
        return None
    assert work.inputs is not None
    for layer in group:
        matrix = layer.matrix()
        layer.coded = encode(matrix, find_grid(matrix, weights, importance, search=True))
    error = power = 0.0
    for first in range(0, work.inputs.count, work.inputs.batch):
        expected = outputs.read(first, work.inputs.batch)
        error += float((work.block.forward(work.inputs.read(first, work.inputs.batch)) - expected).double().square().sum())
        power += float(expected.double().square().sum())
    for layer in group:
        layer.coded = None
    return LayerOption(weights.bits, weights.group_size, weights.bits_per_weight(inputs), error / max(power, 1e-30))


def _embedded(architecture: Architecture, windows: TokenWindows, folder: Path) -> Stream:
    from mopt.passes.language._calibration import TOKENS_AT_A_TIME, StreamWriter

    writer = StreamWriter(folder / "0.bin")
    for hidden in architecture.embed(windows.load(), max(1, TOKENS_AT_A_TIME // windows.length)):
        writer.append(hidden)
    return writer.close()


def _pass_on(block: Block, inputs: Stream, path: Path) -> Stream:
    from mopt.passes.language._calibration import StreamWriter

    writer = StreamWriter(path)
    for batch in inputs.batches():
        writer.append(block.forward(batch))
    return writer.close()


def _data(group: tuple[Layer, ...], options: list[LayerOption]) -> dict[str, Any]:
    return {
        "layers": [layer.name for layer in group],
        "weights": sum(layer.shape[0] * layer.shape[1] for layer in group),
        "options": [dataclasses.asdict(option) for option in options],
    }
