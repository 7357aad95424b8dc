"""SGLang: the checkpoint as it is, and options for ``sglang.launch_server``."""

from __future__ import annotations

__all__ = ["Sglang"]

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving._yaml import to_yaml
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._capabilities import why_not_on_cpu, why_not_supported
from mopt.artifacts.serving.language._checkpoint_folder import check_options, refuse, request_text, write_checkpoint_readme
from mopt.model.checkpoint import open_checkpoint
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_OPTIONS = "sglang.yaml"
_PORT = 30000
_CACHES = {"fp8": "fp8_e4m3"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sglang(LanguageServing):
    """``python -m sglang.launch_server`` on a GPU; the same files were judged in vLLM."""

    runtimes: ClassVar[tuple[str, ...]] = ("vllm",)
    stands_in: ClassVar[str] = "SGLang's server needs a GPU and did not run; the same checkpoint ran in vLLM"
    methods: ClassVar[tuple[str, ...]] = ("none", "compressed-tensors", "gptq", "awq")

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask SGLang's own list of models and schemes, then whether vLLM can judge it on a CPU."""
        return why_not_supported("sglang", served) or why_not_supported("vllm", served) or why_not_on_cpu(served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write ``sglang.yaml`` and ``README.md``."""
        refuse(self, served)
        options = _options(served, model_folder)
        comment = f"Options of sglang.launch_server for {model_name(served.name)}, from this folder."
        (folder / _OPTIONS).write_text(to_yaml(options, comment), encoding="utf-8")
        flags = " ".join(f"--{name} {value}" for name, value in options.items())
        write_checkpoint_readme(
            folder,
            title="SGLang",
            served=served,
            start=f"python -m sglang.launch_server {flags}",
            request=request_text(served, port=_PORT),
            notes=[f"python -m sglang.launch_server --config {_OPTIONS} is the same.", f"{self.stands_in}."],
        )

    def check(
        self, folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment | None
    ) -> Sequence[Proof]:
        """Look the options up in SGLang's own."""
        return [check_options(self.name, list(_options(served, model_folder)))]


def _options(served: ServedLanguageModel, model_folder: Path) -> dict[str, Any]:
    cache = {"kv-cache-dtype": _CACHES[served.kv_cache]} if served.kv_cache in _CACHES else {}
    return {
        "model-path": "../../model",
        "served-model-name": model_name(served.name),
        "context-length": served.context,
        "port": _PORT,
        **({"dtype": "float32"} if open_checkpoint(model_folder).dtype == "float32" else {}),
        **cache,
    }
