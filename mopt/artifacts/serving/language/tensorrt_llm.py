"""TensorRT-LLM: ModelOpt's unified checkpoint, and options for ``trtllm-serve``."""

from __future__ import annotations

__all__ = ["TensorrtLlm"]

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving._yaml import to_yaml
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._capabilities import why_not_on_cpu, why_not_supported
from mopt.artifacts.serving.language._checkpoint_folder import refuse, request_text, write_checkpoint_readme
from mopt.errors import NotApplicableError
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_OPTIONS = "extra_llm_api_options.yaml"
_PORT = 8000
_SETTINGS = "hf_quant_config.json"
_ALGORITHMS = (
    "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_BLOCK_SCALES", "NVFP4", "W4A16_AWQ", "W4A8_AWQ", "W4A8_NVFP4_FP8",
    "W4A8_MXFP4_FP8", "MIXED_PRECISION",
)  # fmt: skip
"""Of ``QuantAlgo`` in ``tensorrt_llm/quantization/mode.py`` those that its PyTorch backend has a linear layer for."""
_CACHES = ("FP8", "NVFP4", "INT8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorrtLlm(LanguageServing):
    """``trtllm-serve`` on an NVIDIA GPU; the same numbers, packed for vLLM, were judged there."""

    runtimes: ClassVar[tuple[str, ...]] = ("vllm",)
    stands_in: ClassVar[str] = "not run in TensorRT-LLM, which needs an NVIDIA GPU; the same weights ran in vLLM"
    methods: ClassVar[tuple[str, ...]] = ("none", "modelopt")

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask the index of its PyTorch backend, then whether vLLM can judge the same numbers on a CPU."""
        scored = dataclasses.replace(served, method="compressed-tensors" if served.method == "modelopt" else served.method)
        return why_not_supported("tensorrt_llm", served) or why_not_supported("vllm", scored) or why_not_on_cpu(scored)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write ``extra_llm_api_options.yaml`` and ``README.md``.

        Raises:
            NotApplicableError: When the checkpoint is quantized and has no ``hf_quant_config.json``.
        """
        refuse(self, served)
        if served.method == "modelopt" and not (model_folder / _SETTINGS).is_file():
            raise NotApplicableError(f"a checkpoint of ModelOpt has {_SETTINGS}, and this one has none")
        cache = {"dtype": served.kv_cache} if served.kv_cache else {}
        options = {"kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.9, **cache}}
        comment = f"Options of TensorRT-LLM's LLM for {model_name(served.name)}."
        (folder / _OPTIONS).write_text(to_yaml(options, comment), encoding="utf-8")
        write_checkpoint_readme(
            folder,
            title="TensorRT-LLM",
            served=served,
            start=(
                f"trtllm-serve ../../model --served_model_name {model_name(served.name)} --backend pytorch "
                f"--max_seq_len {served.context} --port {_PORT} --extra_llm_api_options {_OPTIONS}"
            ),
            request=request_text(served, port=_PORT),
            notes=[f"{self.stands_in}."],
        )

    def check(
        self, folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment | None
    ) -> Sequence[Proof]:
        """Read ``hf_quant_config.json`` as ``tensorrt_llm/quantization/modelopt_config.py`` does."""
        if served.method == "none":
            return ()
        mistakes = _mistakes(model_folder)
        detail = "; ".join(mistakes) or f"{_SETTINGS} names an algorithm of its PyTorch backend, and {_INLINE} says the same"
        return [Proof(part="quantization settings, by its reader", state="failed" if mistakes else "proven", detail=detail)]


_INLINE = "config.json"


def _mistakes(folder: Path) -> list[str]:
    """What its reader would refuse or warn of."""
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        inner = settings["quantization"]
        inline = json.loads((folder / _INLINE).read_text(encoding="utf-8")).get("quantization_config") or {}
        layers: dict[str, Any] = inner.get("quantized_layers") or {}
        entries = [("quant_algo", inner.get("quant_algo")), *((name, entry["quant_algo"]) for name, entry in layers.items())]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return [f"{_SETTINGS} cannot be read: {type(error).__name__}: {error}"]
    mistakes = [f"{name}: no algorithm is called {value}" for name, value in entries if value not in _ALGORITHMS]
    cache = inner.get("kv_cache_quant_algo")
    if cache is not None and cache not in _CACHES:
        mistakes.append(f"kv_cache_quant_algo: no cache is called {cache}")
    if inner.get("quant_algo") == "MIXED_PRECISION" and not layers:
        mistakes.append("mixed precision names no layers")
    said = inline.get("quantization", inline)
    if said.get("quant_algo", inner.get("quant_algo")) != inner.get("quant_algo"):
        mistakes.append(f"{_INLINE} says {said['quant_algo']}, and {_SETTINGS} {inner.get('quant_algo')}")
    return mistakes
