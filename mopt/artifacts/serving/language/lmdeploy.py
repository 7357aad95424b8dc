"""LMDeploy: TurboMind's checkpoints of INT4, and options for ``lmdeploy serve api_server``."""

from __future__ import annotations

__all__ = ["Lmdeploy"]

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._capabilities import why_not_on_cpu, why_not_supported
from mopt.artifacts.serving.language._checkpoint_folder import check_options, refuse, request_text, write_checkpoint_readme
from mopt.artifacts.serving.language._lmdeploy_weights import prove_decoding
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_PORT = 23333


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lmdeploy(LanguageServing):
    """``lmdeploy serve api_server`` on a GPU; the same files were judged in vLLM."""

    runtimes: ClassVar[tuple[str, ...]] = ("vllm",)
    stands_in: ClassVar[str] = "LMDeploy's engine needs a GPU and did not run; the same checkpoint ran in vLLM"
    methods: ClassVar[tuple[str, ...]] = ("none", "compressed-tensors", "gptq", "awq")

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask TurboMind's own list of models and group sizes, then whether vLLM can judge it on a CPU."""
        if served.kv_cache:
            return "TurboMind reads no scales of the KV cache out of a checkpoint; --quant-policy 8 makes its own"
        return why_not_supported("lmdeploy", served) or why_not_supported("vllm", served) or why_not_on_cpu(served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write ``README.md`` and ``serve.sh``."""
        refuse(self, served)
        flags = " ".join(f"--{name} {value}" for name, value in _options(served).items())
        command = f"lmdeploy serve api_server ../../model {flags}"
        script = f'#!/bin/sh\n# LMDeploy\'s server, from this folder.\nset -eu\ncd "$(dirname "$0")"\nexec {command} "$@"\n'
        (folder / "serve.sh").write_text(script, encoding="utf-8")
        write_checkpoint_readme(
            folder,
            title="LMDeploy",
            served=served,
            start=command,
            request=request_text(served, port=_PORT),
            notes=["sh serve.sh is the same.", f"{self.stands_in}.", "TurboMind computes INT4 layers in float16."],
        )

    def check(
        self, folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment | None
    ) -> Sequence[Proof]:
        """Look the options up in its command line's own, and have its decoders read the weights where they are installed."""
        options = check_options(self.name, list(_options(served)))
        return [options] if served.method == "none" else [options, prove_decoding(model_folder)]


def _options(served: ServedLanguageModel) -> dict[str, Any]:
    quantized = {} if served.method == "none" else {"model-format": served.method}
    return {
        "model-name": model_name(served.name),
        "server-port": _PORT,
        "backend": "turbomind",
        "session-len": served.context,
        **quantized,
    }
