"""How a language model in OpenVINO is to be executed: a file beside it, for what judges it and what serves it alike."""

from __future__ import annotations

__all__ = ["FILE_NAME", "OpenvinoProperties"]

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

FILE_NAME = "openvino_properties.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenvinoProperties:
    """Properties of OpenVINO's CPU plugin that change numbers; by itself it picks them by the CPU.

    Attributes:
        precision: ``INFERENCE_PRECISION_HINT``: the arithmetic of what is not quantized.
        kv_cache: ``KV_CACHE_PRECISION``; OpenVINO by itself rounds the cache to INT8 (``u8``).
        dynamic_group_size: ``DYNAMIC_QUANTIZATION_GROUP_SIZE``: inputs of quantized layers that share a scale when they are
            rounded to INT8 as they come, where the CPU has a kernel for it; 0 leaves them as they are.
    """

    precision: Literal["f32", "bf16"] = "f32"
    kv_cache: Literal["f32", "f16", "bf16", "u8"] = "f16"
    dynamic_group_size: int = 32

    def plugin(self, threads: int) -> dict[str, Any]:
        """Return what OpenVINO's CPU plugin is told, as its own names."""
        return {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": self.precision,
            "KV_CACHE_PRECISION": self.kv_cache,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self.dynamic_group_size,
        }

    def write(self, folder: Path) -> None:
        """Write the file beside a model."""
        (folder / FILE_NAME).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> OpenvinoProperties:
        """Read the file beside a model; where there is none, what this class says."""
        path = folder / FILE_NAME
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()
