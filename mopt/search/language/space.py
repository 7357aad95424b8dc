"""Which candidates are worth trying for a language model: formats and algorithms for the runtimes that the target has."""

from __future__ import annotations

__all__ = ["SpaceInputs", "language_candidates"]

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Sequence

from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.errors import Rejection, UserError
from mopt.model.quantization import Activations, LayerQuantization, Weights
from mopt.model.tokens import TokenWindows
from mopt.passes._base import Pass
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language.export_awq import ExportAWQ
from mopt.passes.language.export_compressed_tensors import ExportCompressedTensors
from mopt.passes.language.export_gguf import ExportGguf
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.passes.language.export_modelopt import ExportModelopt
from mopt.passes.language.export_onnxruntime_genai import ExportOnnxruntimeGenai
from mopt.passes.language.export_openvino_genai import ExportOpenvinoGenai
from mopt.passes.language.observe_imatrix import ObserveImatrix
from mopt.passes.language.quantize_autoround import QuantizeAutoround
from mopt.passes.language.quantize_awq import QuantizeAWQ
from mopt.passes.language.quantize_fp8 import QuantizeFP8
from mopt.passes.language.quantize_gguf import QuantizeGguf
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.passes.language.quantize_int8 import QuantizeInt8
from mopt.passes.language.quantize_rtn import QuantizeRTN
from mopt.recipe import EffortName, Language
from mopt.records.trial import Outcome
from mopt.runtimes.language._base import LanguageRuntime
from mopt.runtimes.language.llama_cpp import LlamaCpp
from mopt.runtimes.language.onnxruntime_genai import OnnxruntimeGenai
from mopt.runtimes.language.openvino_genai import OpenvinoGenai
from mopt.runtimes.language.vllm import Vllm
from mopt.search.effort import EFFORTS
from mopt.search.language.trial import LanguageCandidate
from mopt.system.environments import find_environment
from mopt.system.plugins import nearest

_EXPORTS: dict[str, Callable[[], Pass]] = {
    "compressed-tensors": ExportCompressedTensors,
    "gptq": ExportGPTQ,
    "awq": ExportAWQ,
    "modelopt": ExportModelopt,
}
"""Packings of a Hugging Face folder, the one that most servers load first."""
_SCORED_AS = {"modelopt": "compressed-tensors"}
"""Packings that no runtime on a CPU loads, and the one whose scores stand for the same numbers."""
_GGUF_EFFORTS: dict[str, EffortName] = {
    "q8_0": "quick", "q6_k": "standard", "q5_k_m": "standard", "q4_k_m": "quick", "q4_0": "thorough", "iq4_xs": "thorough",
    "q3_k_m": "thorough",
}  # fmt: skip
"""Types of GGUF that are tried, and from which effort on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpaceInputs:
    """What candidates are made from.

    Attributes:
        format: Of the source: ``huggingface`` or ``gguf``.
        architecture: Class of transformers.
        windows: Real text in tokens, to calibrate with.
        threads: For one inference.
        context: Tokens of prompt and answer together.
        options: What the recipe says of language models.
        systems: Serving systems that were named; candidates are as all of them take them.
        isa: Instruction sets of the target.
        chat: Whether there is a chat template.
    """

    format: str
    architecture: str
    windows: TokenWindows
    threads: int
    context: int
    options: Language
    systems: Sequence[LanguageServing]
    isa: Sequence[str]
    chat: bool


def language_candidates(inputs: SpaceInputs, patterns: Sequence[str], effort: EffortName) -> list[LanguageCandidate]:
    """Return the candidates; what cannot be tried is among them, with the reason.

    Raises:
        UserError: When a pattern names no candidate, or no format is served by all systems that were named.
    """
    candidates = [*_llama_cpp(inputs), *(_of_folder(inputs) if inputs.format == "huggingface" else ())]
    names = [candidate.name for candidate in candidates]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"no candidate is called {pattern}", nearest(pattern, names))
    served = _check_served(candidates, inputs.systems)
    for candidate in served:
        candidate.check(inputs.format)
    levels = list(EFFORTS)
    named = [pattern for pattern in patterns if pattern != "*"]
    return [
        _available(_accepted(candidate, inputs))
        for candidate in served
        if (named or levels.index(candidate.effort) <= levels.index(effort))
        and any(fnmatch.fnmatch(candidate.name, pattern) for pattern in named or patterns)
    ]


# --- llama.cpp ---------------------------------------------------------------------------------------------------------------


def _llama_cpp(inputs: SpaceInputs) -> Iterator[LanguageCandidate]:
    runtime = LlamaCpp(threads=inputs.threads, context=inputs.context)
    plain: tuple[Pass, ...] = (ExportGguf(),) if inputs.format == "huggingface" else ()
    kind = "bf16" if plain else "source"
    yield LanguageCandidate(name=f"llama_cpp-{kind}", passes=plain, runtime=runtime, method="gguf", detail=kind, unquantized=True)
    observed = (*plain, ObserveImatrix(windows=inputs.windows))
    for name, effort in _GGUF_EFFORTS.items():
        steps = (*plain, QuantizeGguf(type=name)) if name == "q8_0" else (*observed, QuantizeGguf(type=name))
        yield LanguageCandidate(
            name=f"llama_cpp-{name}", passes=steps, runtime=runtime, method="gguf", detail=name.upper(), effort=effort
        )


# --- Hugging Face folders ----------------------------------------------------------------------------------------------------


def _of_folder(inputs: SpaceInputs) -> Iterator[LanguageCandidate]:
    yield from _vllm(inputs)
    threads = {"threads": inputs.threads, "context": inputs.context}
    ort = OnnxruntimeGenai(**threads)
    for name, export, effort in (
        ("fp32", ExportOnnxruntimeGenai(weights="fp32"), "thorough"),
        ("int8", ExportOnnxruntimeGenai(weights="int8"), "standard"),
        ("int4", ExportOnnxruntimeGenai(weights="int4", block_size=32, algorithm="k_quant", head="int8"), "standard"),
        ("int4-128", ExportOnnxruntimeGenai(weights="int4", block_size=128), "thorough"),
    ):
        yield LanguageCandidate(
            name=f"onnxruntime_genai-{name}", passes=(export,), runtime=ort, method="onnxruntime_genai", detail=name,
            unquantized=name == "fp32", effort=effort,
        )  # fmt: skip
    openvino = OpenvinoGenai(**threads)
    for name, openvino_export, effort in (
        ("source", ExportOpenvinoGenai(weights="source"), "thorough"),
        ("int8", ExportOpenvinoGenai(weights="int8"), "quick"),
        ("int4", ExportOpenvinoGenai(weights="int4", windows=inputs.windows, scale_estimation=True), "standard"),
    ):
        yield LanguageCandidate(
            name=f"openvino_genai-{name}", passes=(openvino_export,), runtime=openvino, method="openvino_genai", detail=name,
            unquantized=name == "source", effort=effort,
        )  # fmt: skip


def _vllm(inputs: SpaceInputs) -> Iterator[LanguageCandidate]:
    runtime = Vllm(threads=inputs.threads, context=inputs.context)
    yield LanguageCandidate(
        name="vllm-bf16", passes=(), runtime=runtime, method="none", detail="as it came", unquantized=True
    )
    windows, leave, cache = inputs.windows, inputs.options.leave, inputs.options.kv_cache
    tried: list[tuple[str, BlockwisePass, EffortName]] = [
        ("int8", QuantizeInt8(windows=windows, leave=leave, kv_cache=cache), "quick"),
        ("fp8", QuantizeFP8(windows=windows, leave=leave, kv_cache=cache), "standard"),
        ("int4-rtn", QuantizeRTN(leave=leave), "standard"),
        ("int4-gptq", QuantizeGPTQ(windows=windows, leave=leave, kv_cache=cache), "quick"),
        ("int4-32-gptq", QuantizeGPTQ(windows=windows, group_size=32, leave=leave, kv_cache=cache), "standard"),
        ("int4-awq", QuantizeAWQ(windows=windows, leave=leave, kv_cache=cache), "thorough"),
        ("int4-autoround", QuantizeAutoround(windows=windows, leave=leave, kv_cache=cache), "thorough"),
    ]
    method = _method(inputs.systems, runtime)
    for name, quantize, effort in tried:
        scored = _SCORED_AS.get(method)
        yield LanguageCandidate(
            name=f"vllm-{name}",
            passes=(quantize, _EXPORTS[method]()),
            runtime=runtime,
            method=method,
            detail=name,
            scored_passes=(quantize, _EXPORTS[scored]()) if scored else None,
            effort=effort,
        )


# --- what is served, and where ------------------------------------------------------------------------------------------------


def _method(systems: Sequence[LanguageServing], runtime: LanguageRuntime) -> str:
    """The packing that all systems of this runtime load; the one that most servers load where none is named."""
    named = [system for system in systems if runtime.name in system.runtimes]
    return next((method for method in _EXPORTS if all(method in system.methods for system in named)), next(iter(_EXPORTS)))


def _check_served(candidates: Sequence[LanguageCandidate], systems: Sequence[LanguageServing]) -> list[LanguageCandidate]:
    """Those that every named system takes.

    Raises:
        UserError: When there are none.
    """
    served = [
        candidate
        for candidate in candidates
        if all(candidate.runtime.name in system.runtimes and candidate.method in system.methods for system in systems)
    ]
    if not served:
        names = ", ".join(system.name for system in systems)
        raise UserError(f"no format is served by all of {names}", "build once for each")
    return served


def _accepted(candidate: LanguageCandidate, inputs: SpaceInputs) -> LanguageCandidate:
    """The same, refused where a named system does not take the architecture or the scheme."""
    served = ServedLanguageModel(
        name="model",
        architecture=inputs.architecture,
        format=candidate.runtime.formats[0],
        method=candidate.method,
        scheme=_scheme(candidate),
        context=inputs.context,
        threads=inputs.threads,
        kv_cache=inputs.options.kv_cache,
        chat=inputs.chat,
        group_size=_group_size(candidate),
        detail=candidate.detail,
    )
    for system in inputs.systems:
        if reason := system.refuses(served):
            return _refused(candidate, Rejection.UNSUPPORTED, f"{system.name}: {reason}")
    return candidate


def _scheme(candidate: LanguageCandidate) -> LayerQuantization | None:
    for step in candidate.passes:
        if isinstance(step, BlockwisePass):
            activations: Activations | None = step.activations
            return LayerQuantization(weights=step.weights, activations=activations)
    return None


def _group_size(candidate: LanguageCandidate) -> int:
    scheme = _scheme(candidate)
    weights: Weights | None = scheme.weights if scheme else None
    return max(0, weights.group_size) if weights else 0


def _available(candidate: LanguageCandidate) -> LanguageCandidate:
    """The same, skipped where an environment that it needs is not installed."""
    if candidate.refused is not None:
        return candidate
    steps = (*candidate.passes, *(candidate.scored_passes or ()))
    needed = dict.fromkeys([*(step.tools for step in steps), candidate.runtime.tools])
    missing = [name for name in needed if name and find_environment(name) is None]
    if missing:
        return _refused(
            candidate, Rejection.SKIPPED, f"{' and '.join(missing)} not installed; mopt tools install {' '.join(missing)}"
        )
    return candidate


def _refused(candidate: LanguageCandidate, rejection: Rejection, reason: str) -> LanguageCandidate:
    return dataclasses.replace(candidate, refused=Outcome(rejection=rejection, reason=reason))
