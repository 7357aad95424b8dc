"""Quantize to INT8 with NNCF, for OpenVINO."""

from __future__ import annotations

__all__ = ["QuantizeInt8Nncf"]

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._openvino import convert, dataset, nncf, save, weights_of

_ELEMENTWISE = (
    *("Add", "Divide", "Exp", "Gelu", "HSwish", "MVN", "Maximum", "Minimum", "Multiply", "Power", "ReduceL2"),
    *("ReduceMax", "ReduceMean", "ReduceSum", "Sigmoid", "SoftMax", "Sqrt", "SquaredDifference", "Subtract", "Swish"),
    "Tanh",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeInt8Nncf(QuantizingPass, FilePass):
    """Convert ONNX to OpenVINO's IR and insert FakeQuantize with NNCF's post-training quantization.

    Attributes:
        calibration: Real samples; all of them are used.
        preset: ``mixed`` has asymmetric activations, ``performance`` symmetric ones.
        transformer: Use NNCF's rules for transformers.
        fast_bias_correction: Correct the bias of a layer from its mean alone, instead of running the model for each.
        smooth_quant: Strength with which outliers of activations move into the weights of matrix products; negative is
            off, and None leaves it to NNCF.
        reduce_range: Weights use 7 bits, so that a CPU without VNNI cannot saturate: in the ``first`` layer with
            activations of full range, in ``all`` layers, or in ``none``.
        ranges: How NNCF estimates the range of an activation: its own choice for the preset, the extremes of all samples,
            the mean over samples of a quantile, or the least error of a histogram.
        weighted_only: Leave all elementwise arithmetic in float, and quantize convolutions and matrix products alone.
        float_nodes: Friendly names of nodes that stay in float.
        float_types: Types of OpenVINO operators that stay in float.
        half: Store what is left in float as FP16.
    """

    makes: ClassVar[str] = "openvino"
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    extra: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("nncf", "openvino")

    calibration: Samples
    preset: Literal["mixed", "performance"] = "mixed"
    transformer: bool = False
    fast_bias_correction: bool = True
    smooth_quant: float | None = None
    reduce_range: Literal["first", "all", "none"] = "all"
    ranges: Literal["default", "minmax", "quantile", "histogram"] = "default"
    weighted_only: bool = False
    float_types: tuple[str, ...] = ()
    half: bool = False

    def for_ranking(self) -> Self:
        """Leave in FP32 what is not quantized."""
        return dataclasses.replace(self, half=False)

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Convert, calibrate, quantize and save."""
        library = nncf()
        model = convert(source.file)
        quantized = library.quantize(
            model,
            dataset(library, model, self.calibration),
            preset=library.QuantizationPreset(self.preset),
            subset_size=len(self.calibration),
            fast_bias_correction=self.fast_bias_correction,
            model_type=library.ModelType.TRANSFORMER if self.transformer else None,
            ignored_scope=self._ignored(library, model),
            advanced_parameters=self._advanced(library),
        )
        counts = Counter(node.get_type_name() for node in quantized.get_ops())
        if not counts["FakeQuantize"]:
            raise NotApplicableError("changed nothing: NNCF found no operator to quantize")
        size = save(quantized, folder, half=self.half)
        detail = {
            "quantized": dict(Counter(_type(node) for node in quantized.get_ops() if _runs_on_integers(node))),
            "fake_quantize": counts["FakeQuantize"],
            "float_because": {"asked for": [*self.float_nodes, *self.float_types]},
            "preset": self.preset,
            "samples": len(self.calibration),
            "weight_bytes": size,
        }
        return PassResult(True, detail)

    def _ignored(self, library: Any, model: Any) -> Any:
        types = {*self.float_types, *(_ELEMENTWISE if self.weighted_only else ())}
        present = {node.get_friendly_name() for node in model.get_ops()}
        names = [name for name in self.float_nodes if name in present]
        return library.IgnoredScope(names=names, types=sorted(types), validate=False)

    def _advanced(self, library: Any) -> Any:
        fix = {"first": "FIRST_LAYER", "all": "ENABLE", "none": "DISABLE"}[self.reduce_range]
        parameters = library.AdvancedQuantizationParameters(overflow_fix=library.OverflowFix[fix])
        if self.ranges != "default":
            parameters.activations_range_estimator_params = _estimator(self.ranges)
        if self.smooth_quant is not None:
            alphas = library.AdvancedSmoothQuantParameters(matmul=self.smooth_quant, convolution=-1)
            parameters.smooth_quant_alphas = alphas
        return parameters


def _estimator(ranges: str) -> Any:
    import nncf.quantization.range_estimator as estimators

    presets = estimators.RangeEstimatorParametersSet
    return {"minmax": presets.MINMAX, "quantile": presets.MEAN_QUANTILE, "histogram": presets.HISTOGRAM}[ranges]


def _type(node: Any) -> str:
    return str(node.get_type_name())


def _runs_on_integers(node: Any) -> bool:
    """Whether the second operand is an 8-bit constant, or an activation that was quantized."""
    if _type(node) not in ("Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData"):
        return False
    source = weights_of(node)
    return _type(source) == "FakeQuantize" or source.get_element_type().get_type_name() in ("i8", "u8")
