"""Take the mean error that quantized weights and activations add to an operator's output out of its bias."""

from __future__ import annotations

__all__ = ["correct_biases"]

from pathlib import Path
from typing import TYPE_CHECKING

from mopt.calibration.activations import run_exposed
from mopt.model.graph import Tensors
from mopt.model.onnx_io import load, save
from mopt.model.samples import Samples
from mopt.passes._prepare import subfolder
from mopt.passes._sensitivity import PREFIX, merge

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    Vector = npt.NDArray[np.float64]

_SAMPLES = 32
_BIASED = ("Conv", "ConvTranspose", "Gemm")
_CHANNELS = 1
"""Axis of the output channels in what these operators make."""


def correct_biases(prepared: Path, quantized: ir.Model, samples: Samples, folder: Path) -> list[str]:
    """Add to each INT32 bias what the output of its operator has lost on average, channel by channel.

    The error of one operator is what it makes of the float model's own tensors, as in Nagel et al. 2019, "Data-Free
    Quantization Through Weight Equalization and Bias Correction", section 4.2, with the expectation taken over real
    samples. Depthwise convolutions with 7 bit weights gain most.

    Args:
        prepared: The float model that was quantized; its folder is writable.
        quantized: What became of it, with the same names of nodes; its biases are changed.
        samples: Real ones, of which some are used.
        folder: Empty, for files that are needed meanwhile.

    Returns:
        The names of the nodes whose bias changed.
    """
    if not any(_bias(node) is not None for node in quantized.graph):
        return []
    merged = load(prepared)
    exact = {node.name: node.outputs[0].name for node in merged.graph}
    pairs = merge(merged, load(save(quantized, folder)))
    biased = {str(node.name).removeprefix(PREFIX): node for node in pairs if _bias(node) is not None}
    errors = {name: _MeanError(str(exact[name]), str(node.outputs[0].name)) for name, node in biased.items() if name in exact}
    tensors = [name for error in errors.values() for name in (error.exact, error.noisy)]

    def look(_: int, tensors: Tensors) -> None:
        for error in errors.values():
            error.look(tensors)

    run_exposed(save(merged, subfolder(folder, "merged")), tensors, samples, look, limit=_SAMPLES)
    return [str(node.name) for node in quantized.graph if node.name in errors and _shift(node, errors[str(node.name)])]


class _MeanError:
    """By how much the mean of each output channel differs.

    Args:
        exact: Name of the float tensor.
        noisy: Name of the quantized operator's.
    """

    def __init__(self, exact: str, noisy: str) -> None:
        self.exact, self.noisy = exact, noisy
        self._sum: Vector | float = 0.0
        self._count = 0

    def look(self, tensors: Tensors) -> None:
        """Add one sample, when both tensors are there."""
        import numpy as np

        if self.exact in tensors and self.noisy in tensors:
            lost = tensors[self.exact].astype(np.float64) - tensors[self.noisy]
            axes = tuple(axis for axis in range(lost.ndim) if axis != _CHANNELS)
            self._sum = self._sum + lost.sum(axis=axes)
            self._count += lost.size // max(1, lost.shape[_CHANNELS])

    def mean(self) -> Vector | None:
        """Shape [channels]; None when nothing was seen."""
        import numpy as np

        return np.asarray(self._sum) / self._count if self._count else None


def _bias(node: ir.Node) -> ir.Node | None:
    """Return the DequantizeLinear of a constant bias that nobody else reads."""
    value = node.inputs[2] if node.op_type in _BIASED and len(node.inputs) > 2 else None
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "DequantizeLinear" or len(producer.outputs[0].uses()) != 1:
        return None
    integers, scale = producer.inputs[:2]
    constant = integers is not None and scale is not None and integers.const_value is not None and scale.const_value is not None
    return producer if constant and len(integers.uses()) == 1 else None


def _shift(node: ir.Node, error: _MeanError) -> bool:
    """Change the bias by whole steps of its scale; return whether any step was due."""
    import numpy as np
    import onnx_ir as ir

    bias, mean = _bias(node), error.mean()
    if bias is None or mean is None:
        return False
    integers, scale = bias.inputs[0], bias.inputs[1]
    assert integers is not None
    assert integers.const_value is not None
    assert scale is not None
    assert scale.const_value is not None
    before = integers.const_value.numpy()
    limits = np.iinfo(before.dtype)
    steps = np.rint(mean / scale.const_value.numpy().astype(np.float64))
    after = np.clip(before + steps, limits.min, limits.max).astype(before.dtype)
    integers.const_value = ir.tensor(after, name=integers.name)
    return not np.array_equal(before, after)
