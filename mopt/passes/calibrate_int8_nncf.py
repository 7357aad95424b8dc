"""Find with NNCF what to quantize to INT8 and with which ranges, for OpenVINO."""

from __future__ import annotations

__all__ = ["CalibrateInt8Nncf"]

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.passes._base import FilePass, PassResult
from mopt.passes._nncf_biases import BIASES, changed_biases, write_biases
from mopt.passes._openvino import convert, dataset, nncf, save, type_of, widen_biases

_ELEMENTWISE = (
    *("Add", "Divide", "Exp", "Gelu", "HSwish", "MVN", "Maximum", "Minimum", "Multiply", "Power", "ReduceL2"),
    *("ReduceMax", "ReduceMean", "ReduceSum", "Sigmoid", "SoftMax", "Sqrt", "SquaredDifference", "Subtract", "Swish"),
    "Tanh",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateInt8Nncf(FilePass):
    """Convert ONNX to OpenVINO's IR and insert FakeQuantize with NNCF's post-training quantization.

    The weights stay in float, for ``quantize_int8_nncf`` to round: whichever operators that leaves in float, the samples
    have run once.

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
            the mean over samples of a quantile, or the least error of a histogram. Where its own choice makes none, the
            extremes are taken.
        weighted_only: Leave all elementwise arithmetic in float, and quantize convolutions and matrix products alone.
        float_types: Types of OpenVINO operators that stay in float.
    """

    makes: ClassVar[str] = "openvino"
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    extra: ClassVar[str] = "openvino"
    beside: ClassVar[tuple[str, ...]] = (BIASES,)
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

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Convert, calibrate and save."""
        library = nncf()
        model = convert(source.file)
        widen_biases(model)
        if any(_is_float64(node) for node in model.get_ops()):
            raise NotApplicableError("the model has float64, which OpenVINO does not run beside integers")
        recurrent = _wrong_in_integers(model)
        quantized, ranges = self._quantize(library, model, recurrent, self.ranges), self.ranges
        if ranges == "default" and _has_no_range(quantized):
            quantized, ranges = self._quantize(library, model, recurrent, "minmax"), "minmax"
        if not any(type_of(node) == "FakeQuantize" for node in quantized.get_ops()):
            raise NotApplicableError("changed nothing: NNCF found no operator to quantize")
        write_biases(folder / BIASES, changed_biases(model, quantized))
        save(quantized, folder, half=False)
        detail = {
            "float_because": ({"asked for": [*self.float_types]} if self.float_types else {})
            | ({"no kernel in OpenVINO": recurrent} if recurrent else {}),
            "preset": self.preset,
            "ranges": ranges,
            "samples": len(self.calibration),
        }
        return PassResult(True, detail)

    def _quantize(self, library: Any, model: Any, recurrent: list[str], ranges: str) -> Any:
        return library.quantize(
            model,
            dataset(library, model, self.calibration),
            preset=library.QuantizationPreset(self.preset),
            subset_size=len(self.calibration),
            fast_bias_correction=self.fast_bias_correction,
            model_type=library.ModelType.TRANSFORMER if self.transformer else None,
            ignored_scope=self._ignored(library, recurrent),
            advanced_parameters=self._advanced(library, ranges),
        )

    def _ignored(self, library: Any, recurrent: list[str]) -> Any:
        types = {*self.float_types, *(_ELEMENTWISE if self.weighted_only else ())}
        return library.IgnoredScope(names=recurrent, types=sorted(types), validate=False)

    def _advanced(self, library: Any, ranges: str) -> Any:
        fix = {"first": "FIRST_LAYER", "all": "ENABLE", "none": "DISABLE"}[self.reduce_range]
        parameters = library.AdvancedQuantizationParameters(
            overflow_fix=library.OverflowFix[fix], backend_params={"compress_weights": False}
        )
        if ranges != "default":
            parameters.activations_range_estimator_params = _estimator(ranges)
        if self.smooth_quant is not None:
            alphas = library.AdvancedSmoothQuantParameters(matmul=self.smooth_quant, convolution=-1)
            parameters.smooth_quant_alphas = alphas
        return parameters


def _estimator(ranges: str) -> Any:
    import nncf.quantization.range_estimator as estimators

    presets = estimators.RangeEstimatorParametersSet
    return {"minmax": presets.MINMAX, "quantile": presets.MEAN_QUANTILE, "histogram": presets.HISTOGRAM}[ranges]


def _wrong_in_integers(model: Any) -> list[str]:
    """Names of the recurrent operators that OpenVINO cannot run on integers, though NNCF quantizes them.

    It refuses a quantized GRU, and takes the integers of an LSTM's initial state for its values, where that comes from outside.
    """
    names = []
    for node in model.get_ops():
        states = {"GRUSequence": (), "LSTMSequence": (1, 2)}.get(type_of(node))
        if states is not None and (not states or any(_is_given(node.input_value(port)) for port in states)):
            names.append(node.get_friendly_name())
    return sorted(names)


def _is_float64(node: Any) -> bool:
    return type_of(node) != "Constant" and any(port.get_element_type().get_type_name() == "f64" for port in node.outputs())


def _is_given(state: Any) -> bool:
    """Whether a state is other than a constant, repeated for each sequence of the batch."""
    node = state.get_node()
    while type_of(node) in ("Reshape", "Squeeze", "Transpose", "Unsqueeze"):
        node = node.input_value(0).get_node()
    return type_of(node) not in ("Broadcast", "Constant")


def _has_no_range(model: Any) -> bool:
    """Whether the limits of a FakeQuantize have nothing between them, as it is where a tensor is empty for some samples.

    The mean over samples of their extremes is infinite then, and NNCF makes a zero of it.
    """
    limits = [
        [port.get_node() for port in node.input_values()[1:3]] for node in model.get_ops() if type_of(node) == "FakeQuantize"
    ]
    pairs = [[limit.get_data() for limit in pair] for pair in limits if all(type_of(limit) == "Constant" for limit in pair)]
    return not all(bool((low < high).all()) for low, high in pairs)
