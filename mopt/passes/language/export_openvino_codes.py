"""Put the codes of a quantized checkpoint into a graph for OpenVINO GenAI."""

from __future__ import annotations

__all__ = ["ExportOpenvinoCodes"]

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.files import Model
from mopt.model.openvino_properties import OpenvinoProperties
from mopt.model.packed import QuantizedFolder, open_quantized
from mopt.model.quantization import LayerQuantization
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass
from mopt.passes.language._rounded import tensor_of, write_rounded
from mopt.passes.language.export_openvino_genai import ExportOpenvinoGenai

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_MODEL = "openvino_model.xml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOpenvinoCodes(LanguagePass):
    """Neutral form in, a stateful graph out whose linear layers hold exactly the same integers, scales and zero points.

    A copy with rounded weights in bfloat16 is traced as any checkpoint is, which takes the memory of
    :class:`ExportOpenvinoGenai` and the disk of the model in 16 bits; then each of its matrices is replaced.

    Attributes:
        others: ``int8`` holds embeddings and layers that are not quantized in INT8, a scale and zero point for each row;
            ``source`` leaves them as they are.
        properties: With which it is to be executed, here and by the server.
    """

    takes: ClassVar[str] = "quantized"
    makes: ClassVar[str] = "openvino_genai"
    libraries: ClassVar[tuple[str, ...]] = ExportOpenvinoGenai.libraries
    tools: ClassVar[str] = "openvino_genai"

    others: Literal["int8", "source"] = "int8"
    properties: OpenvinoProperties = dataclasses.field(default_factory=OpenvinoProperties)

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Trace a copy, and replace its weights."""
        quantized = open_quantized(source.folder)
        for name, layer in quantized.quantization.layers.items():
            if reason := _refusal(layer):
                raise NotApplicableError(f"{name}: {reason}")
        scratch = folder.parent / "rounded", folder.parent / "float"
        for path in scratch:
            path.mkdir()
        try:
            write_rounded(quantized, scratch[0])
            step = ExportOpenvinoGenai(weights="source", properties=self.properties)
            step.apply(Model("huggingface", scratch[0], ""), scratch[1])
            self._replace(quantized, scratch[1], folder)
        finally:
            for path in scratch:
                shutil.rmtree(path, ignore_errors=True)
        return PassResult(modified=True, detail={"layers": len(quantized.quantization.layers)})

    def _replace(self, quantized: QuantizedFolder, traced: Path, folder: Path) -> None:
        import nncf
        import openvino

        model = openvino.Core().read_model(str(traced / _MODEL))
        places = _places(model, quantized.quantization.layers)
        for name, layer in quantized.quantization.layers.items():
            tensors = {last: tensor_of(quantized, f"{name}.{last}") for last in ("codes", "scales", "zeros")}
            product = places[name]
            kind = product.input(1).get_element_type()
            product.input(1).replace_source_output(_constant(layer, tensors, kind))
        model.validate_nodes_and_infer_types()
        if self.others == "int8":
            kept = nncf.IgnoredScope(names=[product.get_friendly_name() for product in places.values()])
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM, ignored_scope=kept)
        openvino.save_model(model, str(folder / _MODEL), compress_to_fp16=False)
        del model  # it maps the files that are removed
        for path in sorted(traced.iterdir()):
            if path.is_file() and path.stem != Path(_MODEL).stem:
                shutil.copyfile(path, folder / path.name)


def _refusal(layer: LayerQuantization) -> str:
    """Say why OpenVINO's graph cannot hold a layer; nothing when it can."""
    if layer.weights.kind != "int" or layer.activations is not None:
        return "integer weights are taken over whose inputs are not rounded"
    if layer.weights.bits not in (4, 8):
        return f"OpenVINO has no integers of {layer.weights.bits} bits"
    return ""


def _places(model: Any, layers: Mapping[str, LayerQuantization]) -> dict[str, Any]:
    """The product of each layer, by the name that tracing gave it.

    Raises:
        CandidateRejectedError: When one is not there, or two are.
    """
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    places = {}
    for name in layers:
        matches = [node for node in products if f".{name}/" in f".{node.get_friendly_name().removeprefix('__module.')}"]
        if len(matches) != 1:
            raise CandidateRejectedError(Rejection.UNSUPPORTED, f"the graph has {len(matches)} products of {name}")
        places[name] = matches[0]
    return places


def _constant(layer: LayerQuantization, tensors: Mapping[str, Array | None], kind: Any) -> Any:
    """Codes, less zero points, times scales, in the form that OpenVINO's plugins take into their kernels.

    Args:
        layer: How it is quantized.
        tensors: ``codes`` [out, in], ``scales`` [out, groups] and ``zeros`` of the same shape, or None.
        kind: Type of what the product takes.
    """
    import numpy as np
    import openvino
    from openvino import opset13

    codes, scales, zeros = tensors["codes"], tensors["scales"], tensors["zeros"]
    assert codes is not None
    assert scales is not None
    outputs, inputs = codes.shape
    scales = np.broadcast_to(scales, (outputs, scales.shape[1]))
    groups = scales.shape[1]
    shape = (outputs, groups, inputs // groups) if groups > 1 else (outputs, inputs)
    by_row = (outputs, groups, 1) if groups > 1 else (outputs, 1)
    half = scales.astype(np.float16)
    exact = bool(np.array_equal(half.astype(np.float32), scales))
    held = openvino.Type.f16 if exact else openvino.Type.f32
    value = opset13.convert(_integers(codes, shape, layer.weights.bits), held)
    if zeros is not None:
        value = opset13.subtract(value, opset13.convert(_integers(zeros, by_row, layer.weights.bits), held))
    factor = opset13.constant(np.ascontiguousarray(half if exact else scales).reshape(by_row))
    value = opset13.multiply(value, factor)
    if groups > 1:
        value = opset13.reshape(value, opset13.constant(np.array([outputs, inputs], np.int64)), special_zero=False)
    return (value if held == kind else opset13.convert(value, kind)).output(0)


def _integers(values: Array, shape: tuple[int, ...], bits: int) -> Any:
    """A constant of signed or unsigned integers; two of 4 bits share a byte, the first in its lower half."""
    import numpy as np
    import openvino
    from openvino import op

    flat = np.ascontiguousarray(values).reshape(-1)
    signed = flat.dtype == np.int8
    if bits == 8:
        return op.Constant(openvino.Tensor(flat.reshape(shape)))
    nibbles = flat.view(np.uint8) & 0xF
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    # OpenVINO's own memory: a tensor of 4 bits that is made from an array borrows what the array soon gives back.
    tensor = openvino.Tensor(openvino.Type.i4 if signed else openvino.Type.u4, openvino.Shape(list(shape)))
    tensor.data[:] = (nibbles[::2] | (nibbles[1::2] << 4)).view(tensor.data.dtype)
    return op.Constant(tensor)
