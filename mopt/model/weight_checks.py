"""Whether a quantized checkpoint on disk holds the numbers that it should; reads tensors row by row and runs nothing.

Two questions, each answered with a list of problems that name the layer:

- :func:`compare`: are they exactly those of a quantization, bit by bit? So two exports of it are equal to each other.
- :func:`check_weights`: are they the source's weights, as near as their bits allow? For a checkpoint of any tool.

**What bits allow.** Rounding to nearest with step ``s`` has an error of ``s / sqrt(12)`` (root mean square of a uniform error).
With ``s`` of each group from the *source's* weights, the layer's expected relative error is ``e = sqrt(sum(s^2) / 12) / |W|``:

- integers of ``b`` bits: ``s = range / (2^b - 1)``, the range being ``max - min`` with 0 in it, or ``2 max|w|`` if symmetric;
- FP8 (E4M3): ``s = |w| / 8`` for each weight, the coarsest spacing of three bits of fraction;
- NVFP4: ``s = max|w| / 6``; MXFP4: twice that, since its scales are powers of two.

An algorithm may choose the farther neighbour (AutoRound: at random twice the error) or make up for errors elsewhere (GPTQ), so
a layer passes with ``|W' - W| / |W| <= 2.5 e + 2^-8``; the last is what rounding scales to bfloat16 adds. A wrong zero point
convention is one step, ``sqrt(12) = 3.5 e``; swapped codes, a transposed layer or other packing orders give about 1.4.

A wrong scale of one row or group hides in that sum, so each group's ratios ``sum(sign(w) w') / sum|w|`` and
``sum(w w') / sum(w^2)`` are looked at: a wrong scale moves both, clipped outliers hardly the first, and small weights that are
rounded to nothing hardly the second. Both beyond 3 on the same side, or beyond twelve standard deviations where few weights
of few bits make them noisy, is a problem; so is a second ratio of the whole layer that is off by more than 10 % (or ``e``).
GPTQ makes up for errors elsewhere, and has left single groups of a real model at 0.46 of the source: what is wrong by less is
for :func:`compare` to find.

**Scales folded into neighbours** (AWQ, SmoothQuant). A scale that multiplies the inputs of a layer is undone with the norm that
it was folded into, which divides it out: ``norm / norm'``, or ``(1 + norm) / (1 + norm')`` for norms that are held less one.
Where a linear layer comes before (v_proj before o_proj, up_proj before down_proj), what its rows were multiplied with is
estimated by least squares, and each column of the next layer must undo it within 10 % and six standard deviations of the
estimate: then the pair computes what it did.
"""

from __future__ import annotations

__all__ = ["check_weights", "compare"]

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.model.checkpoint import Checkpoint, TensorEntry, open_checkpoint
from mopt.model.packed import ROWS, PackedLayer, QuantizedFolder, open_quantized, packed_layers
from mopt.model.tensors import floats, map_tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

_PART = 1 << 22
"""Weights that are looked at at a time."""
_ERROR, _SCALE_ROUNDING = 2.5, 2.0**-8
_GROUP_RATIO, _LAYER_RATIO, _DEVIATIONS = 3.0, 0.1, 12.0
_NEGLIGIBLE = 0.01
"""Of the mean size of a group: one that is smaller may be rounded to nothing."""
_PRODUCT, _COLUMN_DEVIATIONS = 0.1, 6.0
_PAIRS = {"o_proj": "v_proj", "down_proj": "up_proj", "w2": "w3"}
"""Layers whose inputs are the outputs of another one, but for what acts on each alone."""
_SAME_GLOBAL = 2.0**-22
"""A global scale that is stored as its inverse comes back within its last two bits."""


def compare(quantized: Path, exported: Path) -> list[str]:
    """Return where an exported checkpoint does not hold exactly what the neutral form holds.

    Args:
        quantized: A folder of the neutral form, see :mod:`mopt.model.quantization`.
        exported: A checkpoint of any packing.

    Returns:
        Problems, each beginning with the name of a layer or tensor; none for equal numbers.
    """
    neutral, model = open_quantized(quantized), open_checkpoint(exported)
    expected, written = packed_layers(neutral), packed_layers(model)
    problems: list[str] = []
    for name, layer in expected.items():
        if name not in written:
            problems.append(f"{name}: not quantized, or missing")
        elif problem := _difference(layer, written[name]):
            problems.append(f"{name}: {problem}")
    problems += [f"{name}: quantized, though it was to be left" for name in written.keys() - expected.keys()]
    return problems + list(_different_tensors(neutral, model))


def check_weights(source: Path, exported: Path) -> list[str]:
    """Return where a quantized checkpoint is farther from its source than its bits allow.

    Args:
        source: The checkpoint that it was made of, not quantized.
        exported: A checkpoint of any packing, written by any tool.

    Returns:
        Problems, each beginning with the name of a layer or tensor.
    """
    original, model = open_checkpoint(source), open_checkpoint(exported)
    folded = _FoldedScales(original, model, packed_layers(model))
    problems: list[str] = []
    for name, layer in folded.layers.items():
        entry = original.tensors.get(f"{name}.weight")
        if entry is None:
            problems.append(f"{name}: the source has no such layer")
        elif entry.shape != layer.shape:
            problems.append(
                f"{name}: is {layer.shape[0]} x {layer.shape[1]}, and the source's {entry.shape[0]} x {entry.shape[1]}"
            )
        elif problem := folded.judge(layer):
            problems.append(f"{name}: {problem}")
    return problems + list(_changed_tensors(original, model, folded))


@dataclasses.dataclass(frozen=True)
class _Undone:
    """What a layer's source weights are multiplied with before it is compared to them; 1 where it is nothing.

    Attributes:
        rows: Shape [out, 1], or a number.
        columns: Shape [1, in], or a number.
    """

    rows: Floats | float = 1.0
    columns: Floats | float = 1.0


class _FoldedScales:
    """The layers of a checkpoint next to their source, and what was folded from one into another."""

    def __init__(self, source: Checkpoint, model: Checkpoint, layers: Mapping[str, PackedLayer]) -> None:
        self.source, self.model, self.layers = source, model, layers
        self.explained: set[str] = set()
        """Tensors that differ from the source's because something was folded into them."""

    def judge(self, layer: PackedLayer) -> str:
        """Say what is wrong with a layer; empty where nothing is."""
        undone = self._norm(layer)
        problem = _judge(layer, functools.partial(self._rows, layer, undone))
        if not problem:
            return ""
        paired, reason = self._pair(layer, undone)
        if paired is not None and not _judge(layer, functools.partial(self._rows, layer, paired)):
            self.explained.add(f"{layer.name}.bias")
            return ""
        return reason or problem

    def _rows(self, layer: PackedLayer, undone: _Undone) -> Iterator[tuple[Floats, Floats, int]]:
        """Yield the source's rows, scaled as the layer was, with the layer's, and the number of the first."""
        entry = self.source.tensors[f"{layer.name}.weight"]
        weights = map_tensor(self.source.folder, entry)
        step = max(ROWS, _PART // layer.shape[1] // ROWS * ROWS)
        for begin in range(0, layer.shape[0], step):
            end = min(begin + step, layer.shape[0])
            rows = undone.rows if isinstance(undone.rows, float) else undone.rows[begin:end]
            yield floats(weights[begin:end], entry.dtype) * rows * undone.columns, _decoded(layer, begin, end), begin

    def _norm(self, layer: PackedLayer) -> _Undone:
        """Find the norm that the scales of a layer's inputs were folded into: the one that explains its first rows best."""
        block = _block(layer.name)
        if layer.name.rpartition(".")[2] in _PAIRS:
            return _Undone()
        candidates = [("", _Undone())]
        for name, entry in self.source.tensors.items():
            changed = self.model.tensors.get(name)
            if (
                _block(name) == block
                and entry.shape == (layer.shape[1],)
                and changed is not None
                and changed.shape == entry.shape
            ):
                candidates += [(name, _Undone(columns=ratio[None, :])) for ratio in self._ratios(name, entry, changed)]
        distances = []
        for _, undone in candidates:
            weights, decoded, _ = next(self._rows(layer, undone))
            distances.append(float(((weights[:ROWS] - decoded[:ROWS]) ** 2).sum() / max((weights[:ROWS] ** 2).sum(), 1e-30)))
        name, undone = candidates[min(range(len(candidates)), key=distances.__getitem__)]
        if name:
            self.explained |= {name, f"{name.removesuffix('.weight')}.bias"}
        return undone

    def _ratios(self, name: str, entry: TensorEntry, changed: TensorEntry) -> list[Floats]:
        """What a norm was divided by, for norms as they are and for those that are held less one; none where it is the same."""
        import numpy as np

        before = floats(map_tensor(self.source.folder, entry), entry.dtype)
        after = floats(map_tensor(self.model.folder, changed), changed.dtype)
        if np.array_equal(before, after):
            return []
        with np.errstate(divide="ignore", invalid="ignore"):  # a zero divides nothing: it is left out by the test below
            ratios = [before / after, (1 + before) / (1 + after)]
        return [ratio.astype(np.float32) for ratio in ratios if np.isfinite(ratio).all()]

    def _pair(self, layer: PackedLayer, undone: _Undone) -> tuple[_Undone | None, str]:
        """Estimate what was moved between a layer and its neighbour; None and a reason where their products are not 1."""
        import numpy as np

        parent, _, last = layer.name.rpartition(".")
        after = last in _PAIRS
        partner = _PAIRS[last] if after else next((name for name, before in _PAIRS.items() if before == last), "")
        neighbour = self.layers.get(f"{parent}.{partner}")
        if neighbour is None or f"{neighbour.name}.weight" not in self.source.tensors:
            return None, ""
        first, second = (neighbour, layer) if after else (layer, neighbour)
        rows = self._row_slopes(first, self._norm(first) if after else undone)
        repeated = self._repeated(rows, second.shape[1])
        if repeated is None or not (rows > 0).all():
            return None, ""
        inverse = _Undone(columns=np.reciprocal(repeated)[None, :])
        if reason := self._wrong_column(first, second, inverse):
            return None, reason
        return (inverse if after else dataclasses.replace(undone, rows=rows[:, None])), ""

    def _row_slopes(self, layer: PackedLayer, undone: _Undone) -> Floats:
        """Estimate by least squares what each row was multiplied with."""
        import numpy as np

        slopes = []
        for weights, decoded, _ in self._rows(layer, undone):
            square = np.square(weights).sum(1)
            slopes.append(np.where(square > 0, (weights * decoded).sum(1) / np.where(square > 0, square, 1), 1))
        return np.concatenate(slopes).astype(np.float32)

    def _wrong_column(self, first: PackedLayer, second: PackedLayer, inverse: _Undone) -> str:
        """Name a column of the second layer that does not undo what a row of the first was multiplied with."""
        import numpy as np

        columns = second.columns() if second.groups > 1 else np.zeros(second.shape[1], np.int64)
        product = square = variance = np.zeros(second.shape[1])
        for weights, decoded, _ in self._rows(second, inverse):
            product = product + (weights * decoded).sum(0, dtype=np.float64)
            square = square + np.square(weights, dtype=np.float64).sum(0)
            variance = variance + (np.square(_weight_steps(second, weights, columns)) / 12).sum(0, dtype=np.float64)
        size = np.maximum(square, 1e-30)
        slopes, noise = product / size, np.sqrt(variance / size)
        decisive = (square > 0) & (_COLUMN_DEVIATIONS * noise < 1)
        wrong = np.flatnonzero(decisive & ~(np.abs(slopes - 1) <= _PRODUCT + _COLUMN_DEVIATIONS * noise))
        if not len(wrong):
            return ""
        column = int(wrong[np.abs(slopes[wrong] - 1).argmax()])
        row = column if first.shape[0] == second.shape[1] else f"of its head and column {column}"
        return f"row {row} of {first.name} times column {column} of {second.name} is {slopes[column]:.3g} times the source's"

    def _repeated(self, rows: Floats, count: int) -> Floats | None:
        """Repeat the scales of value heads for the heads of queries that share them; None where they do not fit."""
        if len(rows) == count:
            return rows
        heads = int(self.source.text_config.get("num_key_value_heads") or 0)
        if not heads or len(rows) % heads or count % len(rows):
            return None
        return rows.reshape(heads, 1, -1).repeat(count // len(rows), axis=1).reshape(-1)


def _judge(layer: PackedLayer, rows_of: Callable[[], Iterator[tuple[Floats, Floats, int]]]) -> str:
    """Compare a layer with its source; say what is wrong, or nothing."""
    import numpy as np

    groups = layer.groups if layer.kind != "fp8" else 1
    columns = layer.columns() if groups > 1 else np.zeros(layer.shape[1], np.int64)
    order = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[order], np.arange(groups))
    ordered = bool((np.diff(columns) >= 0).all())
    floor = _whole_step(layer, rows_of) if layer.kind == "int" and layer.per_tensor else 0.0
    error = expected = square = along = 0.0
    worst = _Group(-math.inf)
    for weights, decoded, begin in rows_of():
        if not np.isfinite(decoded).all():
            return "holds a number that is not finite"
        if not ordered:
            weights, decoded = weights[:, order], decoded[:, order]
        steps = np.maximum(_steps(layer, weights, starts), np.float32(floor**2 * layer.shape[1]))
        error += float(np.square(decoded - weights, dtype=np.float64).sum())
        expected += float(steps.sum()) / 12
        square += float(np.square(weights, dtype=np.float64).sum())
        along += float((weights * decoded).sum(dtype=np.float64))
        worst = max(worst, _worst_group(weights, decoded, starts, steps, begin), key=lambda group: group.beyond)
    if square == 0:
        return "" if error == 0 else "the source is all zeros"
    relative, rounding = math.sqrt(error / square), math.sqrt(expected / square)
    allowed = _ERROR * rounding + _SCALE_ROUNDING
    if relative > allowed:
        return f"differs from the source by {relative:.1%}, and {layer.bits} bits allow {allowed:.1%}"
    if abs(along / square - 1) > max(_LAYER_RATIO, rounding):
        return f"is {along / square:.3g} times the source"
    if worst.beyond > 0:
        return f"row {worst.row}, group {worst.group} is {worst.ratio:.3g} times the source"
    return ""


@dataclasses.dataclass(frozen=True)
class _Group:
    """How far the ratio of a group to the source is beyond what is allowed."""

    beyond: float
    row: int = 0
    group: int = 0
    ratio: float = 1.0


def _worst_group(weights: Floats, decoded: Floats, starts: npt.NDArray[np.int64], steps: Floats, begin: int) -> _Group:
    """Return the group whose two ratios to the source are the farthest beyond what is allowed."""
    import numpy as np

    beyond = []
    count = np.diff([*starts, weights.shape[1]])
    for measure in (np.sign(weights), weights):
        size = np.add.reduceat(measure * weights, starts, axis=1)
        spread = np.add.reduceat(np.square(measure), starts, axis=1) / count
        with np.errstate(divide="ignore", invalid="ignore"):  # groups of zeros have no ratio, and are left out
            ratio = np.add.reduceat(measure * decoded, starts, axis=1) / size
            noise = np.sqrt(steps / 12 * spread) / size
            distance = np.log(np.maximum(ratio, 1e-30))
        allowed = np.maximum(math.log(_GROUP_RATIO), _DEVIATIONS * noise)
        decisive = (size > _NEGLIGIBLE * size.mean()) & (noise * _DEVIATIONS < 1)
        beyond.append(np.where(decisive, np.sign(distance) * np.maximum(np.abs(distance) - allowed, 0), 0.0))
    same = np.where(beyond[0] * beyond[1] > 0, np.minimum(np.abs(beyond[0]), np.abs(beyond[1])), 0.0)
    row, group = map(int, np.unravel_index(int(same.argmax()), same.shape))
    return _Group(float(same[row, group]), begin + row, group, float(ratio[row, group]))


def _steps(layer: PackedLayer, weights: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """Return the sum of the squared steps of rounding in each group, shape [rows, groups]; see the module."""
    import numpy as np

    if layer.kind == "fp8":
        result: Floats = np.add.reduceat(np.square(weights / np.float32(8)), starts, axis=1)
        return result
    return np.square(_group_steps(layer, weights, starts)) * np.diff([*starts, weights.shape[1]])


def _group_steps(layer: PackedLayer, weights: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """Return the step of each group, shape [rows, groups]."""
    import numpy as np

    high = np.maximum.reduceat(weights, starts, axis=1)
    low = np.minimum.reduceat(weights, starts, axis=1)
    largest: Floats = np.maximum(high, -low)
    if layer.kind != "int":
        steps, spread = 6 if layer.kind == "nvfp4" else 3, largest
    elif layer.symmetric:
        steps, spread = (1 << (layer.bits - 1)) - 1, largest
    else:
        steps, spread = (1 << layer.bits) - 1, np.maximum(high, 0) - np.minimum(low, 0)
    result: Floats = spread / np.float32(steps)
    return result


def _weight_steps(layer: PackedLayer, weights: Floats, columns: npt.NDArray[np.int64]) -> Floats:
    """Return the step of each weight, shape [rows, in], for groups of inputs in any order."""
    import numpy as np

    if layer.kind == "fp8":
        return np.divide(weights, np.float32(8))
    order = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[order], np.arange(columns.max() + 1))
    return _group_steps(layer, weights[:, order], starts)[:, columns]


def _whole_step(layer: PackedLayer, rows_of: Callable[[], Iterator[tuple[Floats, Floats, int]]]) -> float:
    """Return the step of integers that share one scale in all rows."""
    import numpy as np

    largest = max(float(np.abs(weights).max()) for weights, _, _ in rows_of())
    return 2 * largest / ((1 << layer.bits) - 2)


def _decoded(layer: PackedLayer, begin: int, end: int) -> Floats:
    """Decode rows as the source's would be: with what a layer multiplies its inputs with."""
    decoded = layer.unscaled(begin, end) * layer.factor
    if "pre_quant_scale" in layer.tensors:
        return decoded * floats(layer.raw("pre_quant_scale"), layer.tensors["pre_quant_scale"].dtype)
    return decoded


def _difference(expected: PackedLayer, written: PackedLayer) -> str:
    """Say where two layers differ; empty where they are equal."""
    import numpy as np

    if expected.shape != written.shape:
        return f"is {written.shape[0]} x {written.shape[1]} instead of {expected.shape[0]} x {expected.shape[1]}"
    if expected.kind != written.kind or (
        expected.kind == "int" and written.coding != "bytes" and expected.bits != written.bits
    ):
        return f"is {written.kind} of {written.bits} bits instead of {expected.kind} of {expected.bits}"
    step = max(ROWS, _PART // expected.shape[1] // ROWS * ROWS)
    for begin in range(0, expected.shape[0], step):
        end = min(begin + step, expected.shape[0])
        before, after = expected.unscaled(begin, end), written.unscaled(begin, end)
        different = before != after
        if different.any():
            row, column = map(int, np.argwhere(different)[0])
            scale = expected.scales(begin, end)[row, -1 if expected.groups == 1 else expected.columns()[column]]
            written_scale = written.scales(begin, end)[row, -1 if written.groups == 1 else written.columns()[column]]
            what = "codes or zero points" if scale == written_scale else f"the scale is {written_scale:.6g}, not {scale:.6g}"
            return (
                f"{int(different.sum())} of {different.size} weights differ, first in row {begin + row}, input {column}: "
                f"{after[row, column]:.6g} instead of {before[row, column]:.6g} ({what})"
            )
    for what, before_scale, after_scale in (
        ("global scale", expected.factor, written.factor),
        ("scale of its inputs", expected.input_scale, written.input_scale),
    ):
        if (before_scale is None) != (after_scale is None):
            return f"has {'no' if after_scale is None else 'a'} {what}"
        if before_scale is not None and not _close(float(before_scale), float(after_scale or 0)):
            return f"the {what} is {after_scale:.6g} instead of {before_scale:.6g}"
    return _declared_difference(written)


def _declared_difference(layer: PackedLayer) -> str:
    """Say where what ``config.json`` says of a layer is not what its tensors are: a server goes by what it says."""
    declared = layer.declared
    if declared is None:
        return ""
    group = layer.shape[1] // layer.groups
    if layer.kind == "int" and declared.get("bits", layer.bits) != layer.bits and layer.coding != "bytes":
        return f"config.json says {declared['bits']} bits, and it has {layer.bits}"
    size = declared.get("group_size") or -1
    if (size if size > 0 else layer.shape[1]) != group:
        return f"config.json says groups of {size}, and they are of {group}"
    if layer.coding == "words" and declared.get("symmetric") != layer.symmetric:
        return f"config.json says {'no ' if declared.get('symmetric') else ''}zero points, and its tensors do not"
    return ""


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= _SAME_GLOBAL * abs(first)


def _different_tensors(neutral: QuantizedFolder, model: Checkpoint) -> Iterator[str]:
    """Compare what is not quantized, bit by bit."""
    import numpy as np

    for name, entry in neutral.tensors.items():
        if name.rpartition(".")[0] in neutral.quantization.layers and not name.endswith(".bias"):
            continue
        renamed = re.sub(r"self_attn\.([kv])_scale$", r"self_attn.\1_proj.\1_scale", name)
        written = model.tensors.get(name) or model.tensors.get(renamed)
        if written is None:
            yield f"{name}: missing"
        elif (written.dtype, written.shape) != (entry.dtype, entry.shape):
            yield f"{name}: is {written.dtype} {list(written.shape)} instead of {entry.dtype} {list(entry.shape)}"
        elif not np.array_equal(
            map_tensor(neutral.folder, entry).reshape(-1).view(np.uint8),
            map_tensor(model.folder, written).reshape(-1).view(np.uint8),
        ):
            yield f"{name}: differs"


def _changed_tensors(source: Checkpoint, model: Checkpoint, folded: _FoldedScales) -> Iterator[str]:
    """Compare what is not quantized with the source, as numbers: a type may be another one."""
    import numpy as np

    for name, entry in source.tensors.items():
        if name.removesuffix(".weight") in folded.layers or name in folded.explained:
            continue
        written = model.tensors.get(name)
        if written is None:
            if not (name == "lm_head.weight" and source.text_config.get("tie_word_embeddings")):
                yield f"{name}: missing"
        elif written.shape != entry.shape:
            yield f"{name}: is {list(written.shape)} instead of {list(entry.shape)}"
        elif written.dtype in ("BF16", "F16", "F32"):
            before = floats(map_tensor(source.folder, entry), entry.dtype)
            after = floats(map_tensor(model.folder, written), written.dtype)
            if not np.allclose(before, after, rtol=2.0**-8, atol=2.0**-24):
                yield f"{name}: differs from the source"


def _block(name: str) -> str:
    """Return the name up to the number of the decoder block: ``model.layers.3``; empty outside of blocks."""
    match = re.match(r"(.*?\.\d+)\.", name)
    return match.group(1) if match else ""
