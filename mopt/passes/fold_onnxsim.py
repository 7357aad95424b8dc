"""Simplify with onnxsim: fold constants, merge and remove operators."""

from __future__ import annotations

__all__ = ["FoldOnnxsim"]

import dataclasses
import tempfile
from pathlib import Path
from typing import ClassVar

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.graph import compare_graphs, external_domains, hold_signature
from mopt.model.onnx_io import load, save
from mopt.passes._base import FilePass, PassResult

_FOREIGN_FUSIONS = (
    "fuse_attention",
    "fuse_gqa",
    "fuse_gelu",
    "fuse_layer_norm",
    "fuse_rms_norm",
    "fuse_rope",
    "fuse_matmul_add_bias_into_gemm_batched",
)
"""They make operators of ``com.microsoft`` that only ONNX Runtime knows."""
_BROKEN = ("eliminate_if_with_const_cond",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldOnnxsim(FilePass):
    """Run onnxsim without the fusions that leave the ONNX standard, and hold the signature.

    Attributes:
        skip: Names of further optimizers of onnxsim to leave out.
        size_limit: Bytes up to which a folded constant is kept.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnxsim", "onnx", "onnxruntime")
    timeout: ClassVar[float] = 600.0

    skip: tuple[str, ...] = ()
    size_limit: int = 16 * 2**20

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Simplify from file to file, check and save."""
        try:
            import onnxsim
        except ModuleNotFoundError as error:  # the core brings it wherever there are wheels
            raise NotApplicableError("onnxsim is not installed; it has no wheels for some machines") from error
        before = load(source.file)
        if any("Sequence" in node.op_type for node in before.graph.all_nodes()):
            raise NotApplicableError("onnxsim takes all elements of a sequence to have one shape")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            simplified = Path(scratch) / "simplified.onnx"
            _, passed = onnxsim.simplify(
                str(source.file),
                skipped_optimizers=[*_FOREIGN_FUSIONS, *_BROKEN, *self.skip],
                tensor_size_threshold=f"{self.size_limit // 2**10}KB",
                output_path=str(simplified),
                certify=False,
            )
            if not passed:
                raise NotApplicableError("onnxsim found its own result to be wrong")
            after = load(simplified)
            hold_signature(before, after, "onnxsim")
            if foreign := external_domains(after) - external_domains(before):
                raise NotApplicableError(f"onnxsim made operators of {', '.join(sorted(foreign))}")
            save(after, folder)
        detail = compare_graphs(before, after)
        return PassResult(detail["nodes"][0] != detail["nodes"][1], detail)
