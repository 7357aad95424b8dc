"""Calibration activations on disk, and what is measured at the inputs of a block's layers."""

from __future__ import annotations

__all__ = ["TOKENS_AT_A_TIME", "BlockWork", "Inputs", "Stage", "Stream", "StreamWriter"]

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from mopt.model.quantization import Activations, Weights
from mopt.passes.language._architecture import Block
from mopt.passes.language._layer import Layer
from mopt.passes.language._selection import siblings

TOKENS_AT_A_TIME = 1024
"""That pass through a block together: what bounds the memory of its intermediate results."""
_NUMBERS_AT_A_TIME = 1 << 20
"""Of hidden states that do: wide models have fewer tokens at a time."""
_EXPERT_INDEX = re.compile(r"\.experts\.\d+\.")


@dataclasses.dataclass(frozen=True)
class Stream:
    """Hidden states between two blocks, float32 [count, length, hidden] in a plain file."""

    path: Path
    count: int
    length: int
    hidden: int

    @property
    def batch(self) -> int:
        """Windows that pass through a block together."""
        return max(1, min(TOKENS_AT_A_TIME, _NUMBERS_AT_A_TIME // self.hidden) // self.length)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.length * self.hidden * 4

    def read(self, first: int, count: int) -> torch.Tensor:
        """Return some windows."""
        return self.pick(range(first, min(first + count, self.count)))

    def pick(self, windows: Iterable[int]) -> torch.Tensor:
        """Return the windows of these numbers."""
        chosen = list(windows)
        width = self.length * self.hidden * 4
        data = bytearray(width * len(chosen))
        view = memoryview(data)
        with self.path.open("rb", buffering=0) as stream:
            for place, window in enumerate(chosen):
                rest = view[place * width : (place + 1) * width]
                os.lseek(stream.fileno(), window * width, os.SEEK_SET)
                while rest:
                    rest = rest[os.readv(stream.fileno(), [rest]) :]
        return torch.frombuffer(data, dtype=torch.float32).reshape(len(chosen), self.length, self.hidden)

    def batches(self) -> Iterator[torch.Tensor]:
        """Yield all windows, some at a time."""
        for first in range(0, self.count, self.batch):
            yield self.read(first, self.batch)


class StreamWriter:
    """Writes a stream under its name only when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._file = self._partial.open("wb")
        self._shape = (0, 0)
        self._count = 0

    def append(self, hidden: torch.Tensor) -> None:
        """Add windows, [windows, length, hidden]."""
        self._count += len(hidden)
        self._shape = (hidden.shape[1], hidden.shape[2])
        self._file.write(memoryview(hidden.float().contiguous().reshape(-1).view(torch.uint8).numpy()))

    def close(self) -> Stream:
        """Return the stream that was written."""
        self._file.close()
        self._partial.replace(self._path)
        return Stream(self._path, self._count, *self._shape)


@dataclasses.dataclass
class Inputs:
    """What was measured at the inputs of layers that share them.

    Attributes:
        tokens: That reached them.
        hessian: Mean of ``x x^T``, float32 [in, in]; None where it was not asked for.
        square: Mean of the squares, float32 [in].
        mean: Mean of the absolute values, float32 [in].
        largest: Largest absolute values, float32 [in].
    """

    tokens: int
    square: torch.Tensor
    mean: torch.Tensor
    largest: torch.Tensor
    hessian: torch.Tensor | None = None

    @classmethod
    def empty(cls, inputs: int, *, hessian: bool) -> Inputs:
        """Return what is known before anything was measured."""
        zeros = torch.zeros
        return cls(0, zeros(inputs), zeros(inputs), zeros(inputs), zeros(inputs, inputs) if hessian else None)

    def add(self, values: torch.Tensor) -> None:
        """Measure some more, [..., in]."""
        flat = values.detach().reshape(-1, values.shape[-1]).float()
        self.tokens += len(flat)
        sizes = flat.abs()
        self.mean += sizes.sum(0)
        self.square += (flat * flat).sum(0)
        self.largest = torch.maximum(self.largest, sizes.amax(0)) if len(flat) else self.largest
        if self.hessian is not None:
            self.hessian.addmm_(flat.T, flat)

    def finish(self) -> Inputs:
        """Make means of the sums."""
        for total in (self.mean, self.square, self.hessian):
            if total is not None and self.tokens:
                total /= self.tokens
        return self


@dataclasses.dataclass(frozen=True)
class Stage:
    """Groups of layers that are measured in one pass; those of a group share their inputs."""

    groups: tuple[tuple[Layer, ...], ...]
    whole: bool
    """Whether the whole block has to run: a token does not reach every expert."""


class _EnoughError(Exception):
    """All layers of a stage have seen a batch."""


@dataclasses.dataclass
class BlockWork:
    """A block, and what an algorithm has to do with it.

    Attributes:
        block: With its layers.
        targets: How each layer that is quantized is held.
        activations: How its inputs are rounded.
        inputs: What the block gets from the quantized ones before it; None without calibration.
        reference: What it gets from the blocks of the source; None where the pass does not ask for it.
        target: What the source's block makes of the reference.
        notes: What is worth telling of a layer.
    """

    block: Block
    targets: dict[str, Weights]
    activations: Activations | None = None
    inputs: Stream | None = None
    reference: Stream | None = None
    target: Stream | None = None
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

    def layers(self) -> list[Layer]:
        """Return the layers that are quantized."""
        return [self.block.layers[name] for name in self.targets]

    def sharing(self) -> list[tuple[Layer, ...]]:
        """Return the layers in groups that share their inputs, by their names."""
        groups: dict[str, list[Layer]] = {}
        for layer in self.layers():
            groups.setdefault(siblings(layer.name), []).append(layer)
        return [tuple(group) for group in groups.values()]

    def stages(self, *, hessian: bool) -> list[Stage]:
        """Return what is measured and quantized together, in the order of the forward pass.

        Experts are of one stage by their role; with Hessians a stage has as many as have room beside the largest matrix.
        """
        assert self.inputs is not None
        order = self._order()
        groups = sorted(self.sharing(), key=lambda group: min(order.get(layer.name, len(order)) for layer in group))
        room = 4 * max(layer.shape[1] ** 2 for layer in self.layers())
        stages: dict[str, list[Stage]] = {}
        for group in groups:
            key = siblings(_EXPERT_INDEX.sub(".experts.*.", group[0].name))
            whole = ".experts." in key
            filled = stages.setdefault(key, [])
            used = sum(4 * member[0].shape[1] ** 2 for member in filled[-1].groups) if filled else 0
            if filled and not (hessian and used + 4 * group[0].shape[1] ** 2 > room):
                filled[-1] = Stage((*filled[-1].groups, group), whole)
            else:
                filled.append(Stage((group,), whole))
        return [stage for part in stages.values() for stage in part]

    def measure(self, stage: Stage, *, hessian: bool) -> list[Inputs]:
        """Run the windows up to the layers of a stage; return for each group what was measured at its inputs."""
        assert self.inputs is not None
        results = [Inputs.empty(group[0].shape[1], hessian=hessian) for group in stage.groups]
        waiting: set[str] = set()

        def watcher(result: Inputs) -> Callable[[Layer, torch.Tensor], None]:
            def watch(layer: Layer, values: torch.Tensor) -> None:
                result.add(values)
                waiting.discard(layer.name)
                if not waiting and not stage.whole:
                    raise _EnoughError

            return watch

        firsts = [group[0] for group in stage.groups]
        for layer, result in zip(firsts, results, strict=True):
            layer.watch = watcher(result)
        try:
            for batch in self.inputs.batches():
                waiting.update(layer.name for layer in firsts)
                try:
                    self.block.forward(batch)
                except _EnoughError:
                    continue
        finally:
            for layer in firsts:
                layer.watch = None
        return [result.finish() for result in results]

    def _order(self) -> dict[str, int]:
        """Return when each layer computes, as one window shows; one that it does not reach is missing."""
        assert self.inputs is not None
        order: dict[str, int] = {}

        def watch(layer: Layer, _: torch.Tensor) -> None:
            order.setdefault(layer.name, len(order))

        for layer in self.layers():
            layer.watch = watch
        try:
            self.block.forward(self.inputs.read(0, 1))
        finally:
            for layer in self.layers():
                layer.watch = None
        return order
