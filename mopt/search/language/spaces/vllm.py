"""Candidates of vLLM, and of the servers that load what it loads: weights of 4 and 8 bits, FP8."""

from __future__ import annotations

__all__ = ["VllmSpace"]

from collections.abc import Callable, Iterator, Sequence

from mopt.artifacts.serving.language._base import LanguageServing
from mopt.passes._base import Pass
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language.export_awq import ExportAWQ
from mopt.passes.language.export_compressed_tensors import ExportCompressedTensors
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.passes.language.export_modelopt import ExportModelOpt
from mopt.passes.language.quantize_autoround import QuantizeAutoRound
from mopt.passes.language.quantize_awq import QuantizeAWQ
from mopt.passes.language.quantize_fp8 import QuantizeFP8
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.passes.language.quantize_int8 import QuantizeInt8
from mopt.passes.language.quantize_rtn import QuantizeRTN
from mopt.recipe import EffortName
from mopt.runtimes.language.vllm import Vllm
from mopt.search.language.spaces._base import LanguageSpace, LanguageSpaceInputs
from mopt.search.language.trial import LanguageCandidate

_EXPORTS: dict[str, Callable[[], Pass]] = {
    "compressed-tensors": ExportCompressedTensors,
    "gptq": ExportGPTQ,
    "awq": ExportAWQ,
    "modelopt": ExportModelOpt,
}
"""Packings, the one that most servers load first."""
_SCORED_AS = {"modelopt": "compressed-tensors"}
"""Packings that no runtime on a CPU loads, and the one whose scores stand for the same numbers."""


class VllmSpace(LanguageSpace):
    """One packing serves all systems that were named; each algorithm is packed in it."""

    def candidates(self, inputs: LanguageSpaceInputs) -> Iterator[LanguageCandidate]:
        """Yield the unquantized checkpoint and each algorithm."""
        if inputs.format != "huggingface":
            return
        runtime = Vllm(threads=inputs.threads, context=inputs.context)
        yield LanguageCandidate(
            name="vllm-bf16", passes=(), runtime=runtime, method="none", detail="as it came", unquantized=True
        )
        method = _method(inputs.systems, runtime.name)
        scored = _SCORED_AS.get(method)
        for name, quantize, effort in _quantizations(inputs):
            yield LanguageCandidate(
                name=f"vllm-{name}",
                passes=(quantize, _EXPORTS[method]()),
                runtime=runtime,
                method=method,
                detail=name,
                scored_passes=(quantize, _EXPORTS[scored]()) if scored else None,
                effort=effort,
            )


def _quantizations(inputs: LanguageSpaceInputs) -> list[tuple[str, BlockwisePass, EffortName]]:
    windows, leave, cache = inputs.windows, inputs.options.leave, inputs.options.kv_cache
    mixed: list[tuple[str, BlockwisePass, EffortName]] = [
        (f"mixed-{bits:g}", QuantizeGPTQ(windows=windows, leave=leave, layers=layers, kv_cache=cache), "quick")
        for bits, layers in inputs.mixes
    ]
    return [
        *mixed,
        ("int8", QuantizeInt8(windows=windows, leave=leave, kv_cache=cache), "quick"),
        ("fp8", QuantizeFP8(windows=windows, leave=leave, kv_cache=cache), "standard"),
        ("int4-rtn", QuantizeRTN(leave=leave), "standard"),
        ("int4-gptq", QuantizeGPTQ(windows=windows, leave=leave, kv_cache=cache), "quick"),
        ("int4-32-gptq", QuantizeGPTQ(windows=windows, group_size=32, leave=leave, kv_cache=cache), "standard"),
        ("int4-awq", QuantizeAWQ(windows=windows, leave=leave, kv_cache=cache), "thorough"),
        ("int4-autoround", QuantizeAutoRound(windows=windows, leave=leave, kv_cache=cache), "thorough"),
    ]


def _method(systems: Sequence[LanguageServing], runtime: str) -> str:
    """The packing that all systems of this runtime load; the one that most servers load where none is named."""
    named = [system for system in systems if runtime in system.runtimes]
    return next((method for method in _EXPORTS if all(method in system.methods for system in named)), next(iter(_EXPORTS)))
