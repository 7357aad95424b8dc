"""Convert ONNX to OpenVINO's IR without a change of precision."""

from __future__ import annotations

__all__ = ["BuildOpenvino"]

import dataclasses
from pathlib import Path
from typing import ClassVar

from mopt.model.files import Model
from mopt.passes._base import FilePass, PassResult
from mopt.passes._openvino import convert, save


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOpenvino(FilePass):
    """Write ``model.xml`` and ``model.bin`` with the names of inputs and outputs, their order and symbolic shapes kept.

    Attributes:
        half: Store weights in FP16, half the size; values beyond its range are lost.
    """

    makes: ClassVar[str] = "openvino"
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("openvino",)

    half: bool = False

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Convert and save."""
        size = save(convert(source.file), folder, half=self.half)
        return PassResult(True, {"weights": "float16" if self.half else "as in the model", "weight_bytes": size})
