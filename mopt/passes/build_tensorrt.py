"""Build a TensorRT engine of an ONNX model whose types say what is computed in which precision."""

from __future__ import annotations

__all__ = ["BuildTensorrt"]

import dataclasses
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.formats import model_format
from mopt.model.graph import external_domains, name_nodes
from mopt.model.onnx_io import load, save
from mopt.passes._base import FilePass, PassResult
from mopt.passes._tensorrt import EngineOptions, ShapeRange, engine_of
from mopt.passes._tensorrt_layers import count_types, parse_layers
from mopt.records.engine import EngineLayer, left_in_float
from mopt.system.digests import digest
from mopt.system.files import write_whole
from mopt.system.memory import peak_memory
from mopt.system.nvidia import LIBRARIES, Library, devices, import_tensorrt
from mopt.system.store import default_root

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildTensorrt(FilePass):
    """Write ``model.plan``, and the ONNX that it came from in ``onnx/``.

    Precision is what the graph says: FP16 and BF16 by its types, INT8, FP8 and INT4 by QuantizeLinear and
    DequantizeLinear. There is no calibrator. The layer table of the engine is in the detail.

    TensorRT for RTX builds without a GPU; ``tensorrt`` needs the one that will serve.

    Attributes:
        library: Which of the two.
        capabilities: For RTX: compute capabilities, such as ``8.9``; none makes it portable from Ampere on.
        profiles: Shapes of the inputs of variable size.
        workspace_bytes: Most memory that a layer may take for its own work.
        level: Of optimization, 0 to 5.
        version_compatible: Runs under later versions of the library, where it can be asked for (not for RTX).
        hardware: Also runs on other GPUs: ``same`` compute capability, or ``ampere`` and later; not for RTX.
    """

    makes: ClassVar[str] = "tensorrt"
    exclusive: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("onnx-ir", *LIBRARIES["tensorrt"], *LIBRARIES["tensorrt_rtx"])
    extra: ClassVar[str] = "tensorrt-rtx"

    library: Library = "tensorrt_rtx"
    capabilities: tuple[str, ...] = ()
    profiles: tuple[tuple[ShapeRange, ...], ...] = ()
    workspace_bytes: int | None = None
    level: int | None = None
    version_compatible: bool = False
    hardware: Literal["none", "same", "ampere"] = "none"

    def key(self) -> dict[str, Any]:
        """Add the GPU, which an engine of ``tensorrt`` is bound to."""
        bound = [dataclasses.asdict(device) for device in devices()] if self.library == "tensorrt" else []
        return super().key() | {"devices": bound}

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Check, build, and save both."""
        trt = import_tensorrt(self.library)
        if self.library == "tensorrt" and not devices():
            raise NotApplicableError(
                "tensorrt builds on the GPU that will serve, and there is none here; tensorrt_rtx builds without"
            )
        model = load(source.file)
        if foreign := external_domains(model):
            raise NotApplicableError(f"TensorRT does not know operators of {', '.join(sorted(foreign))}")
        name_nodes(model)
        _name_dimensions(model)
        quantized = _quantized(model)
        layout = model_format(self.makes)
        (folder / layout.source_folder).mkdir()
        path = save(model, folder / layout.source_folder)
        start = time.perf_counter()
        cache = self._timing_cache(trt.__version__) if self.library == "tensorrt" else None
        options = EngineOptions(
            capabilities=self.capabilities if self.library == "tensorrt_rtx" else (),
            workspace_bytes=self.workspace_bytes,
            level=self.level,
            flags=("VERSION_COMPATIBLE",) if self.version_compatible else (),
            compatibility={"none": "", "same": "SAME_COMPUTE_CAPABILITY", "ampere": "AMPERE_PLUS"}[self.hardware],
        )
        timed = None if cache is None else cache.read_bytes() if cache.exists() else b""
        engine, lines, timings = engine_of(trt, path, profiles=self.profiles, options=options, timing_cache=timed)
        if cache is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_whole(cache, timings)
        layers = parse_layers(lines)
        if quantized and not any(layer.narrow for layer in layers if layer.computes):
            raise NotApplicableError(
                f"none of {len(quantized)} quantized operators computes in fewer bits on compute capability "
                f"{', '.join(self.capabilities) or 'of this GPU'}"
            )
        (folder / layout.main_file).write_bytes(engine)
        return PassResult(True, self._describe(trt.__version__, time.perf_counter() - start, layers, quantized))

    def _timing_cache(self, version: str) -> Path:
        """Where tactics are kept that were timed for the same library, GPU, driver and options; any other is of no use."""
        key = {
            "version": version,
            "device": dataclasses.asdict(devices()[0]),
            "options": [self.workspace_bytes, self.level, self.version_compatible, self.hardware],
        }
        return default_root() / "timing" / f"{digest(key)}.cache"

    def _describe(
        self, version: str, seconds: float, layers: tuple[EngineLayer, ...], quantized: Collection[str]
    ) -> dict[str, Any]:
        return {
            "built with": f"{self.library} {version}",
            "capabilities": list(self.capabilities) or ["portable"],
            "build_seconds": round(seconds, 2),
            "peak_bytes": peak_memory(os.getpid()),
            "computes": count_types(layers),
            "left_in_float": left_in_float(layers, quantized),
            "layers": [layer.model_dump() for layer in layers],
        }


def _name_dimensions(model: ir.Model) -> None:
    """Give unnamed dimensions of the inputs names of their own: TensorRT takes two that are called ``?`` for one."""
    import onnx_ir as ir

    for value in model.graph.inputs:
        sizes = [size if isinstance(size, int) else size.value for size in value.shape or ()]
        if value.shape is not None and not {None, "?", ""}.isdisjoint(sizes):
            value.shape = ir.Shape(
                f"{value.name}_{axis}" if size in (None, "?", "") else size for axis, size in enumerate(sizes)
            )


def _quantized(model: ir.Model) -> set[str]:
    """Names of the convolutions and products whose weights come out of a DequantizeLinear."""
    names = set()
    for node in model.graph:
        weights = node.inputs[1] if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") else None
        producer = weights.producer() if weights is not None else None
        if producer is not None and producer.op_type == "DequantizeLinear":
            names.add(str(node.name))
    return names
