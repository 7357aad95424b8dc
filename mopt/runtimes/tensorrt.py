"""TensorRT and TensorRT for RTX, on the GPU that an engine was built for."""

from __future__ import annotations

__all__ = ["TensorRT"]

import contextlib
import dataclasses
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from mopt.errors import CandidateRejectedError, MissingDependencyError, Rejection
from mopt.model.files import Model
from mopt.model.signature import Feed, TensorSpec
from mopt.runtimes._base import Runtime, Session
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.system.nvidia import LIBRARIES, NO_GPU, PORTABLE, Device, Library, device_state, devices, import_tensorrt

_WARM_UPS = 20
_MEASURED = 100
"""Inferences whose times on the device are reported, after those that raise the clocks."""
_SLOW_ENQUEUE = 0.8
"""Share of the time on the GPU from which on the host is what limits it."""
_MOST_VARIATION = 0.025
"""Standard deviation over mean from which on a reader is warned: a GPU with locked clocks varies less."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorRT(Runtime):
    """An engine with pinned buffers, on a stream of its own, replayed as a CUDA graph as long as the shapes stay the same.

    Attributes:
        library: What built the engine.
        version: Of that library; an engine runs under no other one.
        capabilities: Compute capabilities that it was built for; none for any that the library makes portable engines for.
        graph: Record the inference as a CUDA graph, which spares the host most of the launches.
    """

    formats: ClassVar[tuple[str, ...]] = ("tensorrt",)
    devices: ClassVar[tuple[str, ...]] = ("gpu",)
    libraries: ClassVar[tuple[str, ...]] = (*LIBRARIES["tensorrt_rtx"], *LIBRARIES["tensorrt"])
    extra: ClassVar[str] = "tensorrt-rtx"
    side_by_side: ClassVar[tuple[int, ...]] = (1, 2, 4)

    threads: int = 1
    library: Library = "tensorrt_rtx"
    version: str = ""
    capabilities: tuple[str, ...] = ()
    graph: bool = True

    @property
    def module(self) -> str:
        """What is imported before loading is timed."""
        return self.library

    def fallback(self, model: Model) -> tuple[Model, Runtime]:
        """Without a GPU of that kind: the ONNX that the engine came from, in ONNX Runtime."""
        if not self.unavailable():
            return model, self
        return Model.source_of(model.format, model.folder), OnnxRuntime(threads=os.cpu_count() or 1)

    def open(self, path: Path) -> Session:
        """Load an engine, unless this is not the GPU or the version that it was built for."""
        if why := self.unavailable():
            raise CandidateRejectedError(Rejection.SKIPPED, why)
        trt = import_tensorrt(self.library)
        if self.version and trt.__version__ != self.version:
            raise CandidateRejectedError(
                Rejection.UNSUPPORTED,
                f"the engine was built with {self.library} {self.version}, and this is {trt.__version__}; "
                "mopt rebuild makes one for this version",
            )
        return _TensorrtSession(trt, path, devices()[0], graph=self.graph)

    def unavailable(self) -> str:
        """Why the engine cannot be loaded here: no GPU, or not one that it was built for."""
        if not devices():
            return NO_GPU
        device = devices()[0]
        if self.runs_on(device.capability):
            return ""
        built_for = ", ".join(self.capabilities) or PORTABLE[self.library]
        return (
            f"the engine is for compute capability {built_for}, and {device.name} has {device.capability}; "
            "mopt rebuild makes one for this GPU"
        )

    def runs_on(self, capability: str) -> bool:
        """Whether an engine that was built so runs on GPUs of a compute capability."""
        if self.capabilities:
            return capability in self.capabilities
        number = tuple(map(int, capability.split(".")))
        if self.library == "tensorrt_rtx":  # not on the GPUs of data centres from Hopper on, nor on Orin
            return capability in ("8.0", "8.6", "8.9") or number >= (12, 0)
        return number >= (8, 0)


class _Buffer:
    """Memory on both sides for one tensor; it grows and never shrinks."""

    def __init__(self, cuda: ModuleType) -> None:
        self._cuda = cuda
        self.size = 0
        self.device = 0
        self.host: Any = None

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes."""
        import ctypes

        if size <= self.size:
            return
        if self.size:
            _checked(self._cuda.cudaFree(self.device))
            _checked(self._cuda.cudaFreeHost(ctypes.addressof(self.host)))
        self.device = _checked(self._cuda.cudaMalloc(size))
        pinned = _checked(self._cuda.cudaMallocHost(size))
        self.host = (ctypes.c_byte * size).from_address(int(pinned))
        self.size = size

    def view(self, shape: Sequence[int], dtype: Any) -> Any:
        """The host's side as an array."""
        import math

        import numpy as np

        return np.frombuffer(self.host, dtype, count=math.prod(shape)).reshape(tuple(shape))


class _TensorrtSession(Session):
    def __init__(self, trt: ModuleType, path: Path, device: Device, *, graph: bool) -> None:
        self._trt, self._cuda, self._gpu, self._graph = trt, _cuda_runtime(), device, graph
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._engine = trt.Runtime(self._logger).deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise CandidateRejectedError(Rejection.FAILED, "TensorRT cannot load the engine")
        self._context = self._engine.create_execution_context()
        self._stream = _checked(self._cuda.cudaStreamCreate())
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]
        self._buffers = {name: _Buffer(self._cuda) for name in names}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._recorded: Any = None
        self._flushed = False
        self._profile = 0

    def run(self, feed: Feed) -> Feed:
        self._prepare(feed)
        for name in self._inputs:
            buffer = self._buffers[name]
            self._copy(buffer.device, buffer.host, feed[name].nbytes, "cudaMemcpyHostToDevice")
        self._launch()
        outputs = {name: (tuple(self._context.get_tensor_shape(name)), self._dtype(name)) for name in self._outputs}
        for name, (shape, dtype) in outputs.items():
            self._copy(self._buffers[name].device, self._buffers[name].host, _size(shape, dtype), "cudaMemcpyDeviceToHost")
        _checked(self._cuda.cudaStreamSynchronize(self._stream))
        return {name: self._buffers[name].view(shape, dtype).copy() for name, (shape, dtype) in outputs.items()}

    def specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        def spec(name: str) -> TensorSpec:
            shape = tuple(size if size >= 0 else "?" for size in self._engine.get_tensor_shape(name))
            return TensorSpec(name=name, dtype=str(self._dtype(name)), shape=shape)

        return [spec(name) for name in self._inputs], [spec(name) for name in self._outputs]

    def evidence(self) -> dict[str, Any]:
        """Return the GPU with its state, and the engine's own account of its layers."""
        inspector = self._engine.create_engine_inspector()
        description = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return {"device": dataclasses.asdict(self._gpu), "state": device_state(), "engine": description[:20_000]}

    def operators(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Return nothing: TensorRT fuses operators into layers, which :meth:`layers` lists."""
        return []

    def layers(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Time each layer with TensorRT's profiler, without the CUDA graph."""
        times: dict[str, list[float]] = {}

        class Profiler(self._trt.IProfiler):  # type: ignore[misc, name-defined]
            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        self._prepare(feed)
        self._context.profiler = Profiler()
        try:
            for _ in range(repeats):
                self._context.execute_async_v3(int(self._stream))
                _checked(self._cuda.cudaStreamSynchronize(self._stream))
        finally:
            self._context.profiler = None
        return [
            {"name": name, "kind": name.split("_")[0], "arithmetic": "fp32", "ms": statistics.fmean(layer_ms)}
            for name, layer_ms in sorted(times.items(), key=lambda pair: -statistics.fmean(pair[1]))
        ]

    def device_times(self, feed: Feed) -> dict[str, Any]:
        """Time the inference alone by events on the GPU, as trtexec does: no transfers, after a warm-up.

        Returns milliseconds at the median and at 99 %, those of the enqueue on the host and of both transfers, the state of the
        GPU before and after, and warnings.
        """
        self._prepare(feed)
        begin, end = (_checked(self._cuda.cudaEventCreate()) for _ in range(2))
        before, on_gpu, on_host = device_state(), [], []
        for index in range(_WARM_UPS + _MEASURED):
            _checked(self._cuda.cudaEventRecord(begin, self._stream))
            with _clock() as elapsed:
                self._launch()
            _checked(self._cuda.cudaEventRecord(end, self._stream))
            _checked(self._cuda.cudaEventSynchronize(end))
            if index >= _WARM_UPS:
                on_gpu.append(float(_checked(self._cuda.cudaEventElapsedTime(begin, end))))
                on_host.append(elapsed[0])
        ordered = sorted(on_gpu)
        return {
            "gpu_p50_ms": statistics.median(ordered),
            "gpu_p99_ms": ordered[int(0.99 * len(ordered))],
            "enqueue_p50_ms": statistics.median(on_host),
            "before": before,
            "after": device_state(),
            "warnings": _warnings(on_gpu, on_host, device_state()),
        }

    # --- one inference --------------------------------------------------------------------------------------------------

    def _prepare(self, feed: Feed) -> None:
        """Copy the inputs into pinned memory, after a change of the context where their shapes have changed."""
        shapes = {name: tuple(feed[name].shape) for name in self._inputs}
        if shapes != self._shapes:
            self._adopt(feed)
            self._shapes = shapes
        for name in self._inputs:
            self._buffers[name].view(feed[name].shape, feed[name].dtype)[...] = feed[name]

    def _adopt(self, feed: Feed) -> None:
        """Choose the profile that covers the shapes, and set shapes and addresses.

        A graph that was recorded before is undefined afterwards, by NVIDIA's documentation of CUDA graphs with TensorRT.
        """
        self._shapes, self._flushed = {}, False
        if self._recorded is not None:
            _checked(self._cuda.cudaGraphExecDestroy(self._recorded))
            self._recorded = None
        self._choose_profile(feed)
        for name in self._inputs:
            array = feed[name]
            if not self._context.set_input_shape(name, array.shape):
                raise CandidateRejectedError(Rejection.FAILED, f"the engine has no profile for {name} of shape {array.shape}")
            self._buffers[name].reserve(array.nbytes)
        for name in self._outputs:
            self._buffers[name].reserve(_size(tuple(self._context.get_tensor_shape(name)), self._dtype(name)))
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, int(buffer.device))

    def _choose_profile(self, feed: Feed) -> None:
        fitting = (index for index in range(self._engine.num_optimization_profiles) if self._covers(index, feed))
        chosen = next(fitting, 0)
        if chosen != self._profile:
            self._context.set_optimization_profile_async(chosen, int(self._stream))
            self._profile = chosen

    def _covers(self, index: int, feed: Feed) -> bool:
        ranges = [self._engine.get_tensor_profile_shape(name, index) for name in self._inputs]
        return all(
            all(low <= size <= high for low, size, high in zip(least, feed[name].shape, most, strict=True))
            for name, (least, _, most) in zip(self._inputs, ranges, strict=True)
        )

    def _launch(self) -> None:
        """Run; the second time with the same shapes, and ever after, from a graph.

        The first run after a change does what is done once, and what must not be recorded.
        """
        if not self._graph or not self._flushed:
            self._context.execute_async_v3(int(self._stream))
            self._flushed = True
            return
        if self._recorded is None:
            _checked(self._cuda.cudaStreamSynchronize(self._stream))
            mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            _checked(self._cuda.cudaStreamBeginCapture(self._stream, mode))
            self._context.execute_async_v3(int(self._stream))
            recorded = _checked(self._cuda.cudaStreamEndCapture(self._stream))
            self._recorded = _checked(self._cuda.cudaGraphInstantiate(recorded, 0))
            _checked(self._cuda.cudaGraphDestroy(recorded))
        _checked(self._cuda.cudaGraphLaunch(self._recorded, self._stream))

    def _copy(self, device: int, host: Any, size: int, kind: str) -> None:
        import ctypes

        address, way = ctypes.addressof(host), getattr(self._cuda.cudaMemcpyKind, kind)
        target, source = (device, address) if kind.endswith("ToDevice") else (address, device)
        _checked(self._cuda.cudaMemcpyAsync(target, source, size, way, self._stream))

    def _dtype(self, name: str) -> Any:
        import numpy as np

        return np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))


def _cuda_runtime() -> ModuleType:
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as error:
        raise MissingDependencyError("cuda-python", "tensorrt-rtx") from error
    module: ModuleType = runtime
    return module


def _checked(answer: Any) -> Any:
    """Return what a call of cuda-python gave, or say which error it was."""
    code, *values = answer
    if int(code):
        raise CandidateRejectedError(Rejection.FAILED, f"CUDA: {code.name}")
    return values[0] if len(values) == 1 else tuple(values) or None


def _size(shape: Sequence[int], dtype: Any) -> int:
    import math

    return max(1, math.prod(shape)) * int(dtype.itemsize)


@contextlib.contextmanager
def _clock() -> Iterator[list[float]]:
    """Yield a list that holds the milliseconds of the block after it."""
    import time

    elapsed: list[float] = []
    start = time.perf_counter()
    yield elapsed
    elapsed.append((time.perf_counter() - start) * 1e3)


def _warnings(on_gpu: Sequence[float], on_host: Sequence[float], state: dict[str, Any]) -> list[str]:
    warnings = []
    if statistics.median(on_host) > _SLOW_ENQUEUE * statistics.median(on_gpu):
        warnings.append("the host's enqueue takes nearly as long as the GPU's work: the GPU waits for the CPU")
    variation = statistics.pstdev(on_gpu) / statistics.fmean(on_gpu)
    if variation > _MOST_VARIATION:
        warnings.append(f"times vary by {variation:.1%}: lock the clocks, or measure longer")
    if state.get("throttled"):
        warnings.append("the GPU slowed itself down because of heat or power")
    return warnings
