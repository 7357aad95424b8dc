"""The rules of CUDA and TensorRT that a session has to keep, on memory of the CPU: for machines without a GPU.

It proves nothing about a GPU. It proves that addresses are set and valid, that what is read was copied, that memory is freed
once, and that no graph is replayed after a change of the context it was recorded from.
"""

from __future__ import annotations

import ctypes
import enum
import types

import numpy as np

OK = 0


class Cuda:
    """Functions of cuda-python's runtime, which return an error code and what they give."""

    cudaMemcpyKind = enum.Enum("cudaMemcpyKind", "cudaMemcpyHostToDevice cudaMemcpyDeviceToHost")
    cudaStreamCaptureMode = enum.Enum("cudaStreamCaptureMode", "cudaStreamCaptureModeThreadLocal")

    def __init__(self):
        self.memory, self.recording, self.graphs, self.replayed = {}, None, {}, 0

    def cudaMalloc(self, size):
        block = (ctypes.c_byte * size)()
        self.memory[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address):
        del self.memory[address]
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert self.recording is None
        assert size <= min(len(self.memory[target]), len(self.memory[source]))
        ctypes.memmove(target, source, size)
        return (OK,)

    def cudaStreamCreate(self):
        return OK, 7

    def cudaStreamSynchronize(self, stream):
        assert self.recording is None
        return (OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        self.graphs[len(self.graphs)], self.recording = self.recording, None
        return OK, len(self.graphs) - 1

    def cudaGraphInstantiate(self, graph, flags):
        return OK, ("executable", graph)

    def cudaGraphDestroy(self, graph):
        return (OK,)

    def cudaGraphExecDestroy(self, executable):
        del self.graphs[executable[1]]
        return (OK,)

    def cudaGraphLaunch(self, executable, stream):
        self.replayed += 1
        for work in self.graphs[executable[1]]:
            work()
        return (OK,)

    def cudaEventCreate(self):
        return OK, object()

    def cudaEventRecord(self, event, stream):
        return (OK,)

    def cudaEventSynchronize(self, event):
        return (OK,)

    def cudaEventElapsedTime(self, begin, end):
        return OK, 1.5


class Context:
    """Doubles ``x``, float32[1 to 8, 4], on addresses that were given."""

    def __init__(self, cuda):
        self.cuda, self.shape, self.addresses, self.changes, self.profile = cuda, None, {}, 0, 0
        self.profiler = None

    def set_input_shape(self, name, shape):
        self.changes += 1
        self.shape = tuple(shape)
        low, high = ((1, 4), (5, 8))[self.profile]
        return len(shape) == 2 and low <= shape[0] <= high and shape[1] == 4

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.changes += 1
        self.addresses[name] = address

    def set_optimization_profile_async(self, index, stream):
        self.changes += 1
        self.profile = index

    def execute_async_v3(self, stream):
        shape, addresses, changes = self.shape, dict(self.addresses), self.changes

        def work():
            assert changes == self.changes, "a graph is undefined after a change of its context"
            size = 4 * int(np.prod(shape))
            assert all(len(self.cuda.memory[address]) >= size for address in addresses.values())
            source, target = (np.frombuffer(self.cuda.memory[addresses[name]], np.float32, size // 4) for name in ("x", "y"))
            target[...] = 2 * source

        if self.cuda.recording is not None:
            self.cuda.recording.append(work)
        else:
            work()
        if self.profiler is not None:
            self.profiler.report_layer_time("Conv_0", 0.5)


class Engine:
    num_io_tensors = 2
    num_optimization_profiles = 2

    def __init__(self, cuda):
        self.context = Context(cuda)

    def create_execution_context(self):
        return self.context

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_mode(self, name):
        return {"x": "in", "y": "out"}[name]

    def get_tensor_shape(self, name):
        return (-1, 4)

    def get_tensor_dtype(self, name):
        return "float32"

    def get_tensor_profile_shape(self, name, index):
        return (((1, 4), (2, 4), (4, 4)), ((5, 4), (6, 4), (8, 4)))[index]

    def create_engine_inspector(self):
        return types.SimpleNamespace(get_engine_information=lambda kind: "{}")


def tensorrt(engine):
    """A module with as much of TensorRT as a session uses."""

    class Logger:
        ERROR = 1

        def __init__(self, severity):
            pass

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, content):
            return engine if content == b"engine" else None

    return types.SimpleNamespace(
        __version__="1.0", Logger=Logger, Runtime=Runtime, nptype=np.dtype, IProfiler=object,
        TensorIOMode=types.SimpleNamespace(INPUT="in"), LayerInformationFormat=types.SimpleNamespace(JSON="json"),
    )  # fmt: skip
