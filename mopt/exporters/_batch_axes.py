"""Find by experiment along which axis a model takes several samples at once."""

from __future__ import annotations

__all__ = ["ROWS_IN_ONE", "Batched", "find_batch_axes"]

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mopt.exporters._parity import compare
from mopt.model.signature import Feed, Signature

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_MOST_TRIALS = 32
"""Combinations of axes that are tried, the likeliest first; each runs the model twice."""
_ROUNDING = 50.0
"""Slack between a sample alone and in a batch, where kernels add up in another order and a small output magnifies it."""
ROWS_IN_ONE = "each sample holds what the model takes for several:"
"""How the reason begins where samples are batches by themselves: people should know, for it may be a mistake."""
Run = Callable[[Feed], Feed]


@dataclasses.dataclass(frozen=True)
class Batched:
    """What an experiment showed.

    Attributes:
        axes: The batch axis of each input and output that has one; empty when samples cannot be put together.
        size: The batch size, where the model has it fixed.
        reason: Why samples cannot be put together freely; empty when they can.
        ranks: Number of axes of each output, as it came out.
    """

    axes: dict[str, int]
    size: int | None
    reason: str
    ranks: dict[str, int]


class _MixedError(Exception):
    """The outputs of a batch are not those of its samples."""


def find_batch_axes(run: Run, signature: Signature, feeds: Sequence[Feed], *, random: bool) -> Batched:
    """Run two samples alone and together, and see along which axis each output grows.

    Args:
        run: Runs the model.
        signature: With the guess where the samples have their batch axis.
        feeds: Real samples; two of the same shapes are used, or one and itself with its values moved around. An axis stacks
            samples only where each of them has length 1.
        random: The model gives something else each time: then shapes alone decide.
    """
    first, second = _pair(feeds)
    if signature.batch_size is not None:
        return _fixed(run, signature, first, second, random=random)
    solo = run(first)
    ranks = {name: value.ndim for name, value in solo.items()}
    reason = ""
    for axes in _guesses(signature, feeds):
        try:
            outputs = _try(run, signature.model_copy(update={"batch_axes": axes}), solo, first, second, random=random)
        except _MixedError as error:
            reason = reason or str(error)
        else:
            return Batched({**axes, **outputs}, None, "", ranks)
    reason = reason or _rows_in_one(run, signature, first, solo) or "no input has an axis to stack samples along"
    return Batched({}, None, reason, ranks)


def _fixed(run: Run, signature: Signature, first: Feed, second: Feed, *, random: bool) -> Batched:
    """Describe a model with a fixed batch size: its outputs have that size along their batch axis.

    An output without such an axis, or of which no part is one sample's, belongs to all samples of the batch. One that has a
    single row because a single thing was found has no batch of one: its size varies.
    """
    size = signature.batch_size or 1
    second = _with_shared(signature, first, second)
    rest = [second] * (size - 1)
    twins, ahead, behind = (run(signature.stack(group)) for group in ([first] * size, [first, *rest], [*rest, first]))
    ranks = {name: value.ndim for name, value in ahead.items()}
    declared = {spec.name: spec.shape for spec in signature.outputs}
    axes: dict[str, int] = {}
    reason = f"the batch size is fixed to {size}"
    for name, value in ahead.items():
        fitting = [axis for axis, length in enumerate(value.shape) if length == size]
        if size == 1:
            fitting = [axis for axis in fitting if not _varies(declared.get(name, ()), axis)]
        problems = [_change(name, twins, ahead, behind, axis, size) for axis in fitting]
        if fitting and (random or "" in problems):
            axes[name] = fitting[0 if random else problems.index("")]
        elif size > 1:
            problem = problems[0] if problems else f"output {name} has shape {list(value.shape)}"
            reason = f"the batch size is fixed to {size}, and its samples change each other: {problem}"
    return Batched({**signature.batch_axes, **axes}, size, reason, ranks)


def _varies(shape: Sequence[int | str], axis: int) -> bool:
    """Whether the length of an axis is not in the shape that the model declares, as far as it declares one."""
    return axis < len(shape) and isinstance(shape[axis], str)


def _change(name: str, twins: Feed, ahead: Feed, behind: Feed, axis: int, size: int) -> str:
    """Return how an output of the first sample depends on its neighbours, before it and behind it; empty where it does not."""
    if len({group[name].shape for group in (twins, ahead, behind)}) > 1:
        return f"output {name} has another shape for other samples"
    parts = [{name: group[name].take([index], axis)} for group, index in ((twins, 0), (twins, size - 1))]
    changed = [{name: group[name].take([index], axis)} for group, index in ((ahead, 0), (behind, size - 1))]
    return compare(parts, changed).problem


def _try(run: Run, signature: Signature, solo: Feed, first: Feed, second: Feed, *, random: bool) -> dict[str, int]:
    """Return the batch axis of each output when the inputs are stacked as the signature says.

    A sample must give the same whatever its neighbour is, before it or behind it: that is compared within one batch size,
    where the same kernels round in the same way. Alone it must give the same up to that rounding.

    Raises:
        _MixedError: When they cannot be stacked, with the reason.
    """
    second = _with_shared(signature, first, second)
    try:
        ahead, behind, twins = (run(signature.stack(pair)) for pair in ([first, second], [second, first], [first, first]))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has no public base class for what it raises
        raise _MixedError(f"a batch of 2 fails: {_last_line(error)}") from None
    axes = {}
    for name, value in ahead.items():
        if not value.shape == behind[name].shape == twins[name].shape:
            raise _MixedError(f"output {name} has another shape for other samples")
        axis = _grown(solo[name].shape, value.shape)
        if axis is not None:
            axes[name] = axis
        elif value.shape != solo[name].shape:
            shapes = f"{list(solo[name].shape)} for one sample and {list(value.shape)} for two"
            raise _MixedError(f"output {name} has shape {shapes}")
    if not axes:
        raise _MixedError("no output grows with the batch")
    alone = [_part(solo, axes, 0)] * 2
    equal = [_part(twins, axes, 0), _part(twins, axes, 1)]
    stacked = [_part(ahead, axes, 0), _part(behind, axes, 1)]
    problem = compare(equal, stacked).problem or compare(alone, stacked, slack=_ROUNDING).problem
    if problem and not random:
        raise _MixedError(f"the samples of a batch change each other: {problem}")
    return axes


def _with_shared(signature: Signature, first: Feed, second: Feed) -> Feed:
    """Return the second sample with what all samples of a batch share from the first."""
    return {name: value if name in signature.batch_axes else first[name] for name, value in second.items()}


def _part(outputs: Feed, axes: Mapping[str, int], index: int) -> Feed:
    """Return what belongs to one sample of a batch."""
    return {name: value.take([index], axes[name]) if name in axes else value for name, value in outputs.items()}


def _rows_in_one(run: Run, signature: Signature, feed: Feed, outputs: Feed) -> str:
    """Return that a sample is a batch by itself, where each of its rows gives the same alone; else nothing."""
    axes = {spec.name: axis for spec in signature.inputs if (axis := signature.batch_axes.get(spec.name)) is not None}
    lengths = {feed[name].shape[axis] for name, axis in axes.items()}
    if len(lengths) != 1 or (length := lengths.pop()) < 2:
        return ""
    try:
        rows = [run({**feed, **_part(_inputs(feed, axes), axes, index)}) for index in (0, length - 1)]
    except Exception:  # noqa: BLE001 - ONNX Runtime has no public base class for what it raises
        return ""
    grown = {}
    for name, value in outputs.items():
        grown[name] = next((axis for axis, size in enumerate(value.shape) if size == length), -1)
    if min(grown.values()) < 0:
        return ""
    parts = [_part(outputs, grown, index) for index in (0, length - 1)]
    if compare(parts, rows, slack=_ROUNDING).problem:
        return ""
    name, axis = next(iter(axes.items()))
    return f"{ROWS_IN_ONE} {length} along axis {axis} of {name}; given one by one, they can be put together freely"


def _inputs(feed: Feed, axes: Mapping[str, int]) -> Feed:
    return {name: feed[name] for name in axes}


def _grown(single: Sequence[int], double: Sequence[int]) -> int | None:
    """Return the axis along which the output for one sample has become that for two, or None."""
    if len(single) != len(double):
        return None
    changed = [axis for axis, (a, b) in enumerate(zip(single, double, strict=True)) if a != b]
    return changed[0] if len(changed) == 1 and (single[changed[0]], double[changed[0]]) == (1, 2) else None


def _guesses(signature: Signature, feeds: Sequence[Feed]) -> Iterator[dict[str, int]]:
    """Yield batch axes of the inputs, the most likely first: as guessed, then with ever more inputs otherwise."""
    choices: list[list[int | None]] = []
    for spec in signature.inputs:
        shapes = [feed[spec.name].shape for feed in feeds]
        fitting: list[int | None] = [
            axis
            for axis, size in enumerate(spec.shape)
            if isinstance(size, str) and all(axis < len(shape) and shape[axis] == 1 for shape in shapes)
        ]
        guess = signature.batch_axes.get(spec.name)
        ordered = sorted([*fitting, None], key=lambda axis, guess=guess: axis != guess)  # type: ignore[misc]
        choices.append(ordered)
    combinations = sorted(itertools.islice(itertools.product(*(range(len(options)) for options in choices)), 4096), key=sum)
    for picked in combinations[:_MOST_TRIALS]:
        axes = {spec.name: options[index] for spec, options, index in zip(signature.inputs, choices, picked, strict=True)}
        input_axes = {name: axis for name, axis in axes.items() if axis is not None}
        if input_axes:
            yield input_axes


def _pair(feeds: Sequence[Feed]) -> tuple[Feed, Feed]:
    """Return two samples of the same shapes that differ."""
    import numpy as np

    first = feeds[0]
    for second in feeds[1:]:
        alike = all(second[name].shape == value.shape for name, value in first.items())
        if alike and any(not np.array_equal(second[name], value) for name, value in first.items()):
            return first, second
    return first, {name: _moved(value) for name, value in first.items()}


def _moved(value: Array) -> Array:
    """Return the same values in other places: still real ones, such as valid token ids."""
    import numpy as np

    return np.roll(value, 1, axis=-1) if value.ndim else value


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[-200:] if lines else type(error).__name__
