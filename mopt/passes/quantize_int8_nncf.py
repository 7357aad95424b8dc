"""Quantize to INT8 what NNCF calibrated, for OpenVINO."""

from __future__ import annotations

__all__ = ["QuantizeInt8Nncf"]

import dataclasses
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Self

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._nncf_biases import BIASES, bias_of, read_biases, replace_constant
from mopt.passes._openvino import openvino, save, type_of, weights_of

_HANDS_ON = {
    *("AvgPool", "Concat", "Convert", "Gather", "MaxPool", "Pad", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice"),
    *("Tile", "Transpose", "Unsqueeze", "VariadicSplit"),
}
"""Operators between a FakeQuantize and who reads it that compute nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeInt8Nncf(QuantizingPass, FilePass):
    """Round the weights of what ``calibrate_int8_nncf`` made to INT8.

    What stays in float reads what was in front of a FakeQuantize, and gets back the bias that it had before the error of
    rounding was taken from it.

    Attributes:
        float_nodes: Friendly names of nodes that stay in float.
        half: Store what is left in float as FP16.
    """

    takes: ClassVar[str] = "openvino"
    makes: ClassVar[str] = "openvino"
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("openvino",)

    half: bool = False

    def for_ranking(self) -> Self:
        """Leave in FP32 what is not quantized."""
        return dataclasses.replace(self, half=False)

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Leave in float what is to stay so, round the weights of the rest, and save."""
        from openvino._offline_transformations import compress_quantize_weights_transformation

        model = openvino().Core().read_model(str(source.file))
        kept = _restore(model, set(self.float_nodes), source.file.with_name(BIASES))
        counts = Counter(type_of(node) for node in model.get_ops())
        if not counts["FakeQuantize"]:
            raise NotApplicableError("nothing is left to quantize")
        compress_quantize_weights_transformation(model)
        size = save(model, folder, half=self.half)
        detail = {
            "quantized": dict(Counter(type_of(node) for node in model.get_ops() if _runs_on_integers(node))),
            "fake_quantize": counts["FakeQuantize"],
            "float_because": {"asked for": kept} if kept else {},
            "weight_bytes": size,
        }
        return PassResult(True, detail)


def _restore(model: Any, names: Collection[str], biases: Path) -> list[str]:
    """Put these nodes back to float; return which of them there are."""
    before = read_biases(biases) if names else {}
    restored = []
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if name not in names:
            continue
        restored.append(name)
        for port in node.inputs():
            _read_unrounded(port)
        if name in before and (bias := bias_of(node)) is not None:
            replace_constant(*bias, before[name])
    return sorted(restored)


def _read_unrounded(port: Any) -> None:
    """Let an input read what is in front of a FakeQuantize, through what only hands it on to this input."""
    source = port.get_source_output().get_node()
    if type_of(source) == "FakeQuantize":
        port.replace_source_output(source.input_value(0))
    elif type_of(source) in _HANDS_ON and len(port.get_source_output().get_target_inputs()) == 1:
        for behind in source.inputs():
            _read_unrounded(behind)


def _runs_on_integers(node: Any) -> bool:
    """Whether the second operand is an 8-bit constant, or an activation that was quantized."""
    if type_of(node) not in ("Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData"):
        return False
    source = weights_of(node)
    if type_of(source) == "Constant":
        return source.get_element_type().get_type_name() in ("i8", "u8")
    return type_of(source) == "FakeQuantize"
