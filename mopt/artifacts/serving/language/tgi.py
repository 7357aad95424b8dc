"""Text Generation Inference, which its makers have archived: the checkpoint as it is, and options for its launcher."""

from __future__ import annotations

__all__ = ["Tgi"]

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._capabilities import why_not_on_cpu, why_not_supported
from mopt.artifacts.serving.language._checkpoint_folder import check_options, refuse, request_text, write_checkpoint_readme
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_PORT = 8080
_CACHES = {"fp8": "fp8_e4m3fn"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tgi(LanguageServing):
    """``text-generation-launcher`` on a GPU; the same files were judged in vLLM."""

    runtimes: ClassVar[tuple[str, ...]] = ("vllm",)
    stands_in: ClassVar[str] = "TGI cannot be installed and did not run; the same checkpoint ran in vLLM"
    methods: ClassVar[tuple[str, ...]] = ("none", "compressed-tensors", "gptq", "awq")
    unmaintained: ClassVar[str] = "Hugging Face archived TGI in March 2026, and names vLLM, SGLang and llama.cpp in its place"

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask TGI's own list of models and schemes, then whether vLLM can judge it on a CPU."""
        return why_not_supported("tgi", served) or why_not_supported("vllm", served) or why_not_on_cpu(served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write ``README.md`` and ``launch.sh``."""
        refuse(self, served)
        command = "text-generation-launcher " + " ".join(f"--{name} {value}" for name, value in _options(served).items())
        script = f'#!/bin/sh\n# TGI\'s launcher, from this folder.\nset -eu\ncd "$(dirname "$0")"\nexec {command} "$@"\n'
        (folder / "launch.sh").write_text(script, encoding="utf-8")
        write_checkpoint_readme(
            folder,
            title="Text Generation Inference",
            served=served,
            start=command,
            request=request_text(served, port=_PORT),
            notes=[f"{self.unmaintained}.", "sh launch.sh is the same.", f"{self.stands_in}."],
        )

    def check(
        self, folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment | None
    ) -> Sequence[Proof]:
        """Look the options up in its launcher's own."""
        return [check_options(self.name, list(_options(served)))]


def _options(served: ServedLanguageModel) -> dict[str, Any]:
    quantize = {} if served.method == "none" else {"quantize": served.method}
    cache = {"kv-cache-dtype": _CACHES[served.kv_cache]} if served.kv_cache in _CACHES else {}
    return {
        "model-id": "../../model",
        "max-total-tokens": served.context,
        "max-input-tokens": served.context - 1,
        "port": _PORT,
        **quantize,
        **cache,
    }
