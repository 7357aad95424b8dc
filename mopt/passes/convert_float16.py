"""Convert a model to FP16, with FP32 at its inputs and outputs and where FP16 does not reach."""

from __future__ import annotations

__all__ = ["ConvertFloat16"]

import dataclasses
import tempfile
from pathlib import Path
from typing import ClassVar

from mopt.calibration.activations import observe
from mopt.calibration.observers import Range
from mopt.model.files import Model
from mopt.model.onnx_io import load
from mopt.model.samples import Samples
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._half import BLOCKED, LARGEST, beyond_range, convert, touching
from mopt.passes._prepare import write_named


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertFloat16(QuantizingPass, FilePass):
    """Store weights and compute in FP16 wherever the ONNX standard allows it, in subgraphs too.

    A node stays in FP32 when a constant of it is beyond 65504 or would vanish, and, with ``calibration``, when a tensor
    that it reads or writes comes too near to that limit on a sample. LSTM and GRU stay in FP32: in FP16 they crash some
    runtimes.

    Attributes:
        calibration: Real samples to look for overflows with; None checks constants only.
        headroom: The largest activation may be this many times larger on other data.
        op_block: Types of operators that stay in FP32.
        float_nodes: Names of nodes that stay in FP32.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")
    runs_in: ClassVar[tuple[str, ...]] = ("fp16", "bf16")

    calibration: Samples | None = None
    headroom: float = 4.0
    op_block: tuple[str, ...] = BLOCKED

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Observe, convert, check and save."""
        kept = dict.fromkeys(self.float_nodes, "asked for")
        if self.calibration is not None:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                kept = self._overflowing(write_named(source.file, Path(scratch)), self.calibration) | kept
        return convert(source, folder, "FLOAT16", op_block=self.op_block, node_block=kept, largest=LARGEST)

    def _overflowing(self, path: Path, samples: Samples) -> dict[str, str]:
        """Return the nodes of the main graph that touch a tensor too large for FP16."""
        model = load(path)
        names = {str(value.name) for node in model.graph for value in node.outputs if value.name}
        seen = observe(path, sorted(names | {str(value.name) for value in model.graph.inputs}), samples, Range)
        return touching(model, beyond_range(seen, self.headroom))
