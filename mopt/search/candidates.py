"""Which candidates are worth trying for this model on this target."""

from __future__ import annotations

__all__ = ["GraphTraits", "SpaceInputs", "graph_traits", "reference_candidate", "search_space"]

import dataclasses
import fnmatch
from collections.abc import Iterator, Sequence

from mopt.errors import UserError
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.passes._base import Pass
from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.passes.convert_bfloat16 import ConvertBfloat16
from mopt.passes.convert_float16 import ConvertFloat16
from mopt.passes.quantize_int4 import QuantizeInt4
from mopt.passes.quantize_int4_nncf import QuantizeInt4Nncf
from mopt.passes.quantize_int8_dynamic import QuantizeInt8Dynamic
from mopt.passes.quantize_int8_nncf import QuantizeInt8Nncf
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.passes.quantize_tensorrt import QuantizeTensorrt
from mopt.profiles.target import Target
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.onnxruntime_gpu import OnnxRuntimeGpu
from mopt.runtimes.openvino import OpenVINO
from mopt.runtimes.tensorrt import TensorRT
from mopt.search.trial import Candidate
from mopt.system.nvidia import version_of
from mopt.system.plugins import nearest


@dataclasses.dataclass(frozen=True)
class GraphTraits:
    """What of a model decides which candidates make sense.

    Attributes:
        convolutions: Number of convolutions.
        constant_products: Number of matrix products with constant weights.
        free_products: Number of matrix products of two activations, the mark of attention.
        recurrent: Number of LSTM, GRU and RNN operators.
        other: Number of all other operators.
    """

    convolutions: int
    constant_products: int
    free_products: int
    recurrent: int
    other: int

    @property
    def transformer(self) -> bool:
        """Whether attention is what it computes."""
        return self.free_products >= 2 and self.constant_products > self.convolutions

    @property
    def arithmetic(self) -> int:
        """Operators that a lower precision could speed up."""
        return self.convolutions + self.constant_products + self.recurrent


def graph_traits(model: Model) -> GraphTraits:
    """Count the operators of an ONNX model, subgraphs included."""
    from mopt.model.onnx_io import load

    graph = load(model.file)
    counts = {"convolutions": 0, "constant_products": 0, "free_products": 0, "recurrent": 0, "other": 0}
    for node in graph.graph.all_nodes():
        if node.op_type in ("Conv", "ConvTranspose"):
            counts["convolutions"] += 1
        elif node.op_type in ("MatMul", "Gemm"):
            constant = any(value is not None and _is_constant(value) for value in node.inputs[:2])
            counts["constant_products" if constant else "free_products"] += 1
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            counts["recurrent"] += 1
        else:
            counts["other"] += 1
    return GraphTraits(**counts)


def _is_constant(value: object) -> bool:
    producer = value.producer()  # type: ignore[attr-defined]
    return value.const_value is not None or (producer is not None and producer.op_type == "Constant")  # type: ignore[attr-defined]


def reference_candidate(threads: int) -> Candidate:
    """The exported model as it is, in ONNX Runtime and FP32: what everything is compared with."""
    return Candidate("reference", (), OnnxRuntime.reference(threads))


@dataclasses.dataclass(frozen=True)
class SpaceInputs:
    """What candidates are made from.

    Attributes:
        traits: Of the model.
        target: Where it will run.
        calibration: Real samples.
        threads: For one inference.
        engine: How TensorRT engines are built; None for a target without.
    """

    traits: GraphTraits
    target: Target
    calibration: Samples
    threads: int
    engine: BuildTensorrt | None = None


def search_space(asked: SpaceInputs, patterns: Sequence[str], objective: str) -> list[Candidate]:
    """Return the candidates, the likeliest winners first.

    What makes a model smaller and seldom faster is tried for the objective ``size``, or when a pattern names it.

    Raises:
        UserError: When a pattern names no candidate of this plan.
    """
    makers = [make for runtime, make in _MAKERS.items() if runtime in asked.target.runtimes]
    fast = [one for make in makers for one in make(asked)]
    small = list(_small(asked))
    names = [candidate.name for candidate in (*fast, *small)]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"no candidate is called {pattern}", nearest(pattern, names))
    precise = patterns if objective == "size" else [pattern for pattern in patterns if pattern != "*"]
    return [
        *(one for one in fast if _matches(one, patterns)),
        *(one for one in small if _matches(one, precise)),
    ]


def _matches(candidate: Candidate, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(candidate.name, pattern) for pattern in patterns)


def _openvino(asked: SpaceInputs) -> Iterator[Candidate]:
    traits, target, calibration, threads = asked.traits, asked.target, asked.calibration, asked.threads
    float32 = OpenVINO(threads=threads)
    static = OpenVINO(threads=threads, shapes="static")
    int8 = QuantizeInt8Nncf(
        calibration=calibration,
        transformer=traits.transformer,
        reduce_range="none" if target.integer_dot else "all",
    )
    if traits.arithmetic:
        yield Candidate("openvino-int8", (int8,), float32)
        yield Candidate("openvino-int8-static", (int8,), static)
        if target.bfloat16:
            half = OpenVINO(threads=threads, precision="bf16")
            yield Candidate("openvino-int8-bf16", (int8,), half)
            yield Candidate("openvino-bf16", (BuildOpenvino(),), half)
            yield Candidate("openvino-bf16-static", (BuildOpenvino(),), dataclasses.replace(half, shapes="static"))
    yield Candidate("openvino-fp32", (BuildOpenvino(),), float32)
    if traits.arithmetic:
        yield Candidate("openvino-fp32-static", (BuildOpenvino(),), static)
    if traits.arithmetic and not traits.transformer:
        yield Candidate("openvino-int8-weighted", (dataclasses.replace(int8, weighted_only=True),), float32)
    if traits.constant_products:
        yield Candidate("openvino-int4", (QuantizeInt4Nncf(calibration=calibration),), float32)


def _onnxruntime(asked: SpaceInputs) -> Iterator[Candidate]:
    traits, target, calibration, threads = asked.traits, asked.target, asked.calibration, asked.threads
    runtime = OnnxRuntime(threads=threads)
    narrow = not target.integer_dot and not target.arm
    static = QuantizeInt8Static(calibration=calibration, reduce_range=narrow, activations="int8" if target.arm else "uint8")
    if traits.convolutions or traits.constant_products:
        yield Candidate("onnxruntime-int8", (static,), runtime)
        for method in ("percentile", "entropy", "mse"):
            yield Candidate(f"onnxruntime-int8-{method}", (dataclasses.replace(static, method=method),), runtime)
    if traits.constant_products or traits.recurrent:
        yield Candidate("onnxruntime-int8-dynamic", (QuantizeInt8Dynamic(reduce_range=narrow),), runtime)
    yield Candidate("onnxruntime-fp32", (), runtime)
    if traits.constant_products:
        yield Candidate("onnxruntime-int4", (QuantizeInt4(block_size=32),), runtime)
        yield Candidate("onnxruntime-int4-block128", (QuantizeInt4(block_size=128),), runtime)


def _small(asked: SpaceInputs) -> Iterator[Candidate]:
    traits, target, calibration, threads = asked.traits, asked.target, asked.calibration, asked.threads
    runtime = OnnxRuntime(threads=threads)
    if "onnxruntime" in target.runtimes:
        yield Candidate("onnxruntime-fp16", (ConvertFloat16(calibration=calibration),), runtime)
        if traits.constant_products:
            yield Candidate("onnxruntime-int4-hqq", (QuantizeInt4(block_size=32, method="hqq"),), runtime)
            gptq = QuantizeInt4(block_size=32, method="gptq", calibration=calibration)
            yield Candidate("onnxruntime-int4-gptq", (gptq,), runtime)
    if "openvino" in target.runtimes:
        yield Candidate("openvino-fp16", (BuildOpenvino(half=True),), OpenVINO(threads=threads))


def _gpu(asked: SpaceInputs) -> Iterator[Candidate]:
    """Engines where TensorRT is installed, and ONNX Runtime's own provider where there is a GPU to run it on."""
    engine = asked.engine
    assert engine is not None
    runtime = TensorRT(library=engine.library, version=version_of(engine.library), capabilities=engine.capabilities)
    if runtime.version or runtime.unavailable():
        yield from _tensorrt(asked, engine, runtime)
    if not runtime.unavailable():
        yield Candidate("onnxruntime-cuda-fp16", (ConvertFloat16(calibration=asked.calibration),), OnnxRuntimeGpu())
        yield Candidate("onnxruntime-cuda-fp32", (), OnnxRuntimeGpu())


def _tensorrt(asked: SpaceInputs, engine: BuildTensorrt, runtime: TensorRT) -> Iterator[Candidate]:
    """Types are in the graph; what is narrow comes first where it is fast: convolutions, and FP8 for attention."""
    traits, calibration, gpu = asked.traits, asked.calibration, asked.target.gpu
    assert gpu is not None

    def made(name: str, *passes: Pass) -> Candidate:
        return Candidate(f"tensorrt-{name}", (*passes, engine), runtime)

    narrow: dict[str, Candidate] = {}
    if traits.convolutions or traits.constant_products:
        int8 = QuantizeTensorrt(calibration=calibration)
        narrow["int8"] = made("int8", int8)
        narrow["int8-entropy"] = made("int8-entropy", dataclasses.replace(int8, method="entropy"))
        if "fp8" in gpu.peak:
            narrow["fp8"] = made("fp8", dataclasses.replace(int8, arithmetic="fp8"))
    half = made("fp16", ConvertFloat16(calibration=calibration))
    first = [narrow.pop(name) for name in (("fp8",) if traits.transformer else ("int8", "int8-entropy")) if name in narrow]
    yield from (*first, half, *narrow.values())
    if "bf16" in gpu.peak and not runtime.unavailable():  # no CPU can judge it: ONNX Runtime has no such operators for one
        yield made("bf16", ConvertBfloat16())
    if traits.constant_products and "int4" in gpu.peak and gpu.capability != "7.5":
        yield made("int4", QuantizeTensorrt(arithmetic="int4"))
    yield made("fp32")
    if not runtime.unavailable():
        yield Candidate(f"onnxruntime-{engine.library}-fp16", (half.passes[0],), OnnxRuntimeGpu(provider=engine.library))


_MAKERS = {"openvino": _openvino, "onnxruntime": _onnxruntime, "tensorrt": _gpu}
