"""Candidates of ONNX Runtime GenAI: weights in blocks of 4 or 8 bits."""

from __future__ import annotations

__all__ = ["OnnxruntimeGenaiSpace"]

from collections.abc import Iterator

from mopt.passes.language.export_onnxruntime_genai import ExportOnnxruntimeGenai
from mopt.recipe import EffortName
from mopt.runtimes.language.onnxruntime_genai import OnnxruntimeGenai
from mopt.search.language.spaces._base import LanguageSpace, LanguageSpaceInputs
from mopt.search.language.trial import LanguageCandidate


class OnnxruntimeGenaiSpace(LanguageSpace):
    """What its own builder makes of a checkpoint."""

    def candidates(self, inputs: LanguageSpaceInputs) -> Iterator[LanguageCandidate]:
        """Yield FP32, INT8, and INT4 in blocks of two sizes."""
        if inputs.format != "huggingface":
            return
        runtime = OnnxruntimeGenai(threads=inputs.threads, context=inputs.context)
        exports: list[tuple[str, ExportOnnxruntimeGenai, EffortName]] = [
            ("fp32", ExportOnnxruntimeGenai(weights="fp32"), "thorough"),
            ("int8", ExportOnnxruntimeGenai(weights="int8"), "standard"),
            ("int4", ExportOnnxruntimeGenai(weights="int4", block_size=32, algorithm="k_quant", head="int8"), "standard"),
            ("int4-128", ExportOnnxruntimeGenai(weights="int4", block_size=128), "thorough"),
        ]
        for name, export, effort in exports:
            yield LanguageCandidate(
                name=f"onnxruntime_genai-{name}",
                passes=(export,),
                runtime=runtime,
                method="onnxruntime_genai",
                detail=name,
                unquantized=name == "fp32",
                effort=effort,
            )
