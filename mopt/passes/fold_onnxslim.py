"""Simplify with onnxslim: fold constants, merge and remove operators."""

from __future__ import annotations

__all__ = ["FoldOnnxslim"]

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import ClassVar

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.graph import compare_graphs, external_domains, hold_signature
from mopt.model.onnx_io import INLINE_LIMIT, load, save, weight_bytes
from mopt.passes._base import FilePass, PassResult

_LARGEST = 4 * 2**30
"""Bytes of weights; onnxslim takes about three times as much memory."""
_FOLDED_LIMIT = 16 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldOnnxslim(FilePass):
    """Run onnxslim, which adds no operator outside of the standard, and hold the signature.

    A symbolic dimension that onnxslim renamed or fixed gets its name back.

    Attributes:
        size_limit: Bytes up to which a folded constant is kept.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnxslim", "onnx", "onnxruntime")
    timeout: ClassVar[float] = 600.0

    size_limit: int = _FOLDED_LIMIT

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Simplify, check and save."""
        import onnxslim

        before = load(source.file)
        size = weight_bytes(before)
        if size > _LARGEST:
            raise NotApplicableError(f"onnxslim takes three times the {size / 2**30:.1f} GiB of weights in memory")
        with tempfile.TemporaryDirectory(dir=folder) as scratch, contextlib.chdir(scratch):
            slimmed = Path(scratch) / "slim.onnx"
            onnxslim.slim(
                str(source.file.resolve()),
                str(slimmed),
                size_threshold=self.size_limit,
                save_as_external_data=size > INLINE_LIMIT,
            )
            after = load(slimmed)
            hold_signature(before, after, "onnxslim")
            if foreign := external_domains(after) - external_domains(before):
                raise NotApplicableError(f"onnxslim made operators of {', '.join(sorted(foreign))}")
            save(after, folder)
        detail = compare_graphs(before, after)
        return PassResult(detail["nodes"][0] != detail["nodes"][1], detail)
