"""Compress the weights of matrix products to 4 bits with NNCF, for OpenVINO."""

from __future__ import annotations

__all__ = ["QuantizeInt4Nncf"]

import dataclasses
from collections import Counter
from pathlib import Path
from typing import ClassVar

from mopt.errors import NotApplicableError, UserError
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._openvino import convert, dataset, nncf, save, weights_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeInt4Nncf(QuantizingPass, FilePass):
    """Convert ONNX to OpenVINO's IR and compress weights to INT4, the more sensitive ones to INT8.

    Attributes:
        symmetric: Without zero points.
        group_size: Elements that share a scale, fewer where that does not divide a channel; -1 takes the whole channel.
        ratio: Share of the weights that become INT4 instead of INT8.
        awq: Scale channels by their activations first (Lin et al., 2023); needs ``calibration``.
        scale_estimation: Fit the scales to the layers' outputs; needs ``calibration``.
        calibration: Real samples.
        float_nodes: Friendly names of nodes whose weights stay in float.
    """

    makes: ClassVar[str] = "openvino"
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    extra: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("nncf", "openvino")

    symmetric: bool = False
    group_size: int = 128
    ratio: float = 1.0
    awq: bool = False
    scale_estimation: bool = False
    calibration: Samples | None = None

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Convert, compress and save."""
        library = nncf()
        if (self.awq or self.scale_estimation) and self.calibration is None:
            raise UserError("AWQ and scale estimation need samples", "give calibration data, or switch them off")
        model = convert(source.file)
        compressed = library.compress_weights(
            model,
            mode=library.CompressWeightsMode.INT4_SYM if self.symmetric else library.CompressWeightsMode.INT4_ASYM,
            ratio=self.ratio,
            group_size=self.group_size,
            dataset=dataset(library, model, self.calibration) if self.calibration is not None else None,
            subset_size=len(self.calibration) if self.calibration is not None else 128,
            awq=self.awq or None,
            scale_estimation=self.scale_estimation or None,
            ignored_scope=library.IgnoredScope(names=list(self.float_nodes), validate=False),
            advanced_parameters=library.AdvancedCompressionParameters(
                group_size_fallback_mode=library.GroupSizeFallbackMode.ADJUST
            ),
        )
        weighted = [node for node in compressed.get_ops() if node.get_type_name() == "MatMul"]
        weights = [source for source in map(weights_of, weighted) if source.get_type_name() == "Constant"]
        types = Counter(str(source.get_element_type().get_type_name()) for source in weights)
        if not types["u4"] + types["i4"]:
            raise NotApplicableError("changed nothing: NNCF compressed no weight to 4 bits")
        size = save(compressed, folder, half=False)
        four_bit = types["u4"] + types["i4"]
        return PassResult(True, {"weights": {"int4": four_bit, "int8": types["u8"] + types["i8"]}, "weight_bytes": size})
