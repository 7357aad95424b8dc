"""Build TensorRT engines, and say in one line why one could not be built."""

from __future__ import annotations

__all__ = ["EngineOptions", "ShapeRange", "engine_of", "explain", "target_of"]

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mopt.errors import NotApplicableError

_NOISE = re.compile(
    r"CUDA driver version is insufficient|no CUDA-capable device|Unable to determine .*GPU|CUDA initialization failure"
)
_FRAME = re.compile(r"--- (?:Begin|End) node ---|^Node name:|While parsing node|^input:|^output:|^op_type:|^name:")
_PREFIX = re.compile(r"^(?:IBuilder::\w+|IConfig\w*::\w+|[A-Za-z]+::\w+): (?:Error Code \d+: )?")


@dataclasses.dataclass(frozen=True)
class ShapeRange:
    """Shapes of one input that a profile covers.

    Attributes:
        name: Of the input.
        least: The smallest.
        best: The one that tactics are chosen for.
        most: The largest.
    """

    name: str
    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """What the builder is told beside the model and the shapes.

    Attributes:
        capabilities: For ``tensorrt_rtx``: compute capabilities such as ``8.9``; none for an engine that is portable from
            Ampere on.
        workspace_bytes: Most memory that a layer may take for its own work.
        level: Of optimization, 0 to 5; None for the library's.
        flags: Names of further builder flags.
        compatibility: Name of a ``HardwareCompatibilityLevel``; empty for none.
    """

    capabilities: Sequence[str] = ()
    workspace_bytes: int | None = None
    level: int | None = None
    flags: Sequence[str] = ()
    compatibility: str = ""


@dataclasses.dataclass(frozen=True)
class _Hint:
    """What a message of NVIDIA's means, for a person."""

    pattern: re.Pattern[str]
    text: str


_HINTS = tuple(
    _Hint(re.compile(pattern, re.IGNORECASE | re.DOTALL), text)
    for pattern, text in (
        (
            r"network has dynamic or shape inputs, but no optimization profile|profile.*not.*(?:set|defined)",
            "an input has a variable size and no profile covers it",
        ),
        (r"dimensions with this name have different", "two dimensions of the inputs have one name and different sizes"),
        (
            r"MIN.*(?:greater|<=|>).*OPT|OPT.*MAX|min.*opt.*max|dimensions.*not.*consistent.*profile|isValid",
            "the shapes of a profile are not in the order min, opt, max",
        ),
        (
            r"datatypes: fp8|fp8.*(?:not supported|requires|unsupported)|(?:not supported|requires|unsupported).*fp8",
            "this GPU has no FP8 arithmetic, which begins with compute capability 8.9",
        ),
        (
            r"datatypes: int4|int4.*(?:not supported|requires|unsupported)|(?:not supported|requires|unsupported).*int4",
            "this GPU does not take INT4 weights, which begin with compute capability 8.0",
        ),
        (
            r"dequantizelinear.*input has type int32",
            "a bias is quantized to INT32, which TensorRT does not take; quantize_tensorrt leaves biases in float",
        ),
        (
            r"shiftIsAllZeros|non-zero zero point",
            "a zero point is not 0; quantize with quantize_tensorrt, which is symmetric",
        ),
    )
)


_INSTEAD = {
    "If": "fold_onnxsim takes out branches that constants decide",
    "Loop": "fold_onnxsim takes out loops that constants decide",
    **dict.fromkeys(
        ("MatMulNBits", "MatMulInteger", "DynamicQuantizeLinear"), "quantize_tensorrt makes integers that it reads"
    ),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "ConvInteger"), "quantize_tensorrt makes integers that it reads"),
}
"""What could stand in for an operator."""


class _Reader:
    """Makes the logger of one module: its base class exists only when the library is there."""

    def __init__(self, trt: ModuleType) -> None:
        lines: list[str] = []
        errors: list[str] = []
        severe = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                lines.append(message)
                if severity in severe and not _NOISE.search(message):
                    errors.append(message)

        self.lines, self.errors, self.logger = lines, errors, Logger()


def engine_of(
    trt: ModuleType,
    path: Path,
    *,
    profiles: Sequence[Sequence[ShapeRange]],
    options: EngineOptions,
    timing_cache: bytes | None = None,
) -> tuple[Any, list[str], bytes]:
    """Parse an ONNX file and build a strongly typed engine of it.

    Args:
        trt: ``tensorrt`` 10 or 11, or ``tensorrt_rtx``.
        path: The model; weights may lie beside it.
        profiles: Shapes for each input of variable size, several times for several profiles.
        options: Everything else.
        timing_cache: Of an earlier build with the same key; for ``tensorrt``.

    Returns:
        The engine as bytes, all messages of the build, and the new timing cache.

    Raises:
        NotApplicableError: When TensorRT cannot build this model, with what it said.
    """
    reader = _Reader(trt)
    builder = trt.Builder(reader.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, path, network, reader)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    _add_profiles(builder, config, network, profiles, reader)
    cache = None
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(cache, ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise NotApplicableError(explain(reader.errors))
    return engine, reader.lines, bytes(cache.serialize()) if cache is not None else b""


def _configure(trt: ModuleType, config: Any, options: EngineOptions) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.level is not None:
        config.builder_optimization_level = options.level
    for flag in options.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if options.compatibility:
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, options.compatibility)
    if options.capabilities:
        config.num_compute_capabilities = len(options.capabilities)
        for index, capability in enumerate(options.capabilities):
            config.set_compute_capability(target_of(trt, capability), index)


def target_of(trt: ModuleType, capability: str) -> Any:
    """Return the ``ComputeCapability`` of TensorRT for RTX.

    Raises:
        NotApplicableError: When it does not build for that one.
    """
    name = f"SM{capability.replace('.', '')}"
    if not hasattr(trt.ComputeCapability, name):
        supported = sorted(member for member in dir(trt.ComputeCapability) if member.startswith("SM"))
        raise NotApplicableError(
            f"TensorRT for RTX does not build for compute capability {capability}, only for {', '.join(supported)}; "
            "tensorrt does, on the GPU itself"
        )
    return getattr(trt.ComputeCapability, name)


def _parse(trt: ModuleType, path: Path, network: Any, reader: _Reader) -> None:
    parser = trt.OnnxParser(network, reader.logger)
    if parser.parse_from_file(str(path)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    unknown = {
        error.node_name() or f"node {error.node()}": error.node_operator()
        for error in errors
        if error.code() in (trt.ErrorCode.UNSUPPORTED_NODE, trt.ErrorCode.UNSUPPORTED_GRAPH)
    }
    if not unknown:
        raise NotApplicableError(explain([*(error.desc() for error in errors), *reader.errors]))
    listed = ", ".join(f"{operator} ({name})" for name, operator in list(unknown.items())[:5])
    hints = {hint for operator in unknown.values() if (hint := _INSTEAD.get(operator))}
    raise NotApplicableError(f"TensorRT has no {listed}{''.join(f'; {hint}' for hint in sorted(hints))}")


def _add_profiles(builder: Any, config: Any, network: Any, profiles: Sequence[Sequence[ShapeRange]], reader: _Reader) -> None:
    given = {network.get_input(index).name for index in range(network.num_inputs)}
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for shape_range in ranges:
            if shape_range.name in given:
                profile.set_shape(shape_range.name, shape_range.least, shape_range.best, shape_range.most)
        if config.add_optimization_profile(profile) < 0:
            raise NotApplicableError(explain(reader.errors or ["invalid optimization profile: min, opt, max"]))


def explain(messages: Sequence[str]) -> str:
    """Return the last thing that NVIDIA's libraries said, with what it means where that is known."""
    lines = [line for message in messages for line in message.splitlines() if not _NOISE.search(line)]
    telling = [" ".join(_PREFIX.sub("", line).split()) for line in lines if not _FRAME.search(line)]
    whole = " ".join(telling)
    meant = next((hint.text for hint in _HINTS if hint.pattern.search(whole)), "")
    said = telling[-1][:240] if telling else "it gave no reason"
    return f"{meant} (TensorRT: {said})" if meant else f"TensorRT: {said}"
