"""Candidates of llama.cpp: GGUF of several types, with an importance matrix."""

from __future__ import annotations

__all__ = ["LlamaCppSpace"]

from collections.abc import Iterator
from typing import Literal

from mopt.passes._base import Pass
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language.export_gguf import ExportGguf
from mopt.passes.language.export_gguf_codes import ExportGgufCodes
from mopt.passes.language.observe_imatrix import ObserveImatrix
from mopt.passes.language.quantize_autoround import QuantizeAutoRound
from mopt.passes.language.quantize_gguf import QuantizeGguf
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.recipe import EffortName
from mopt.runtimes.language.llama_cpp import LlamaCpp
from mopt.search.language.spaces._base import LanguageSpace, LanguageSpaceInputs
from mopt.search.language.trial import LanguageCandidate

_EFFORTS: dict[str, EffortName] = {
    "q8_0": "quick", "q6_k": "standard", "q5_k_m": "standard", "q4_k_m": "quick", "q4_0": "thorough", "iq4_xs": "thorough",
    "q3_k_m": "thorough",
}  # fmt: skip
"""Types that are tried, and from which effort on."""
_WITHOUT_IMATRIX = ("q8_0",)
"""Types that round to nearest, whatever matters."""


class LlamaCppSpace(LanguageSpace):
    """A checkpoint becomes GGUF in its own precision first; a GGUF is quantized as it is.

    ``Q4_0`` has llama.cpp's fastest kernels and the plainest rounding, so that it gains most from codes that are chosen for it.
    """

    def candidates(self, inputs: LanguageSpaceInputs) -> Iterator[LanguageCandidate]:
        """Yield the unquantized model, each type, and codes of our own quantizations in blocks of ``Q4_0``."""
        cache: Literal["f16", "q8_0"] = "q8_0" if inputs.options.kv_cache == "int8" else "f16"
        runtime = LlamaCpp(threads=inputs.threads, context=inputs.context, cache_type=cache)
        plain: tuple[Pass, ...] = (ExportGguf(),) if inputs.format == "huggingface" else ()
        kind = "bf16" if plain else "source"
        yield LanguageCandidate(
            name=f"llama_cpp-{kind}", passes=plain, runtime=runtime, method="gguf", detail=kind.upper(), unquantized=True
        )
        observed = (*plain, ObserveImatrix(windows=inputs.windows))
        for name, effort in _EFFORTS.items():
            before = plain if name in _WITHOUT_IMATRIX else observed
            yield LanguageCandidate(
                name=f"llama_cpp-{name}",
                passes=(*before, QuantizeGguf(type=name)),
                runtime=runtime,
                method="gguf",
                detail=name.upper(),
                effort=effort,
            )
        if not plain:
            return
        windows, leave = inputs.windows, inputs.options.leave
        quantizations: list[tuple[str, BlockwisePass, EffortName]] = [
            ("gptq", QuantizeGPTQ(windows=windows, group_size=32, leave=leave), "quick"),
            ("autoround", QuantizeAutoRound(windows=windows, group_size=32, leave=leave), "thorough"),
        ]
        for name, quantize, effort in quantizations:
            yield LanguageCandidate(
                name=f"llama_cpp-q4_0-{name}",
                passes=(quantize, ExportGgufCodes(), QuantizeGguf(type="q4_0")),
                runtime=runtime,
                method="gguf",
                detail=f"Q4_0 by {name}",
                effort=effort,
            )
