"""NVIDIA's driver and libraries, as far as every use of them has to know them."""

from __future__ import annotations

__all__ = ["LIBRARIES", "NO_GPU", "PORTABLE", "Device", "Library", "device_state", "devices", "import_tensorrt", "version_of"]

import contextlib
import ctypes
import dataclasses
import functools
import importlib
from importlib import metadata
from types import ModuleType
from typing import Any, Literal

from mopt.errors import MissingDependencyError

Library = Literal["tensorrt", "tensorrt_rtx"]
LIBRARIES: dict[Library, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}
"""Distributions that bring each module."""
PORTABLE: dict[Library, str] = {"tensorrt": "8.0 and later", "tensorrt_rtx": "8.0, 8.6, 8.9, and 12.0 and later"}
"""Compute capabilities of an engine that was built for none by name."""
NO_GPU = "no GPU"
"""What is said wherever one is needed."""
_EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`` and ``_MINOR``."""


@dataclasses.dataclass(frozen=True)
class Device:
    """A GPU of this machine.

    Attributes:
        name: NVIDIA's name of it.
        capability: Compute capability, such as ``8.9``.
        memory_bytes: Its memory.
        driver: Version of CUDA that the driver knows, such as ``13.0``.
    """

    name: str
    capability: str
    memory_bytes: int
    driver: str


@functools.cache
def devices() -> tuple[Device, ...]:
    """Ask the driver for its GPUs; none where there is no driver.

    Nothing of TensorRT may be created before: without a driver it logs an error, raises nothing, and then crashes.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or driver.cuDriverGetVersion(ctypes.byref(version)):
        return ()
    driver_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_device(driver, index, driver_version) for index in range(count.value))


def _device(driver: Any, index: int, version: str) -> Device:
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    return Device(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", memory.value, version)


def device_state() -> dict[str, Any]:
    """Return clocks, power, temperature and reasons of throttling of the first GPU, as far as NVML tells."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return {}
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "sm_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "celsius": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            "memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(handle).used,
            "throttled": pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            & (pynvml.nvmlClocksThrottleReasonHwSlowdown | pynvml.nvmlClocksThrottleReasonSwThermalSlowdown),
        }
    except pynvml.NVMLError as error:
        return {"unknown": str(error)}


def import_tensorrt(library: Library) -> ModuleType:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        MissingDependencyError: When it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(library, _EXTRAS[library]) from error


def version_of(library: Library) -> str:
    """Return the installed version of a library without importing it; empty when it is not installed."""
    for distribution in LIBRARIES[library]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return ""
