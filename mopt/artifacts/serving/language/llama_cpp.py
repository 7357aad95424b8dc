"""llama.cpp's llama-server: a GGUF behind OpenAI's protocol."""

from __future__ import annotations

__all__ = ["LlamaCpp"]

import dataclasses
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._gguf_serving import cache_type, check_gguf, refused_gguf
from mopt.artifacts.serving.language._openai_service import request_lines
from mopt.errors import NotApplicableError
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_SERVICE = Path(__file__).parents[1] / "_files" / "llama_cpp_serve.py"
_PORT = 8080
_PARALLEL = 4
"""Requests that are answered at once, as many as llama-server has by itself; each has the whole context."""
_HOPELESS = ("Traceback (most recent call last)", "error loading model", "failed to load model", "GGML_ASSERT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaCpp(LanguageServing):
    """Options of llama-server, and a script that starts the one that ``mopt tools`` installs."""

    environment: ClassVar[str] = "llama_cpp"
    runtimes: ClassVar[tuple[str, ...]] = ("llama_cpp",)
    methods: ClassVar[tuple[str, ...]] = ("gguf",)

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask the list of architectures of llama.cpp's own converter and library."""
        return refused_gguf(served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write ``serve.py``, ``settings.json`` and ``README.md``."""
        if served.format != "gguf":
            raise NotApplicableError(f"llama-server loads GGUF, not {served.format}")
        if reason := self.refuses(served):
            raise NotApplicableError(reason)
        shutil.copyfile(_SERVICE, folder / "serve.py")
        settings = {
            "name": served.name,
            "model": "../../model/model.gguf",
            "context": served.context,
            "threads": served.threads,
            "parallel": _PARALLEL,
            "cache_type": cache_type(served),
        }
        (folder / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text("\n".join(_readme(served)) + "\n", encoding="utf-8")

    def check(
        self, folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment | None
    ) -> Sequence[Proof]:
        """Read the header of the GGUF: whether it is whole, and has the vocabulary and chat template that are promised."""
        return (check_gguf(model_folder, served),)

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
        """Start llama-server inside of Python, as ``serve.py`` does for the user."""
        url = f"http://127.0.0.1:{ports.http}"
        model = model_folder / "model.gguf"
        return Launch(
            command=[environment.python, folder / "serve.py", "--port", str(ports.http), "--model", model],
            ready=[f"{url}/health"],
            url=f"{url}/v1",
            protocol="openai",
            model=served.name,
            environment={
                "PATH": environment.path,
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": str(served.threads),
            },
            folder=folder,
            hopeless=_HOPELESS,
            version=f"llama-server of xllamacpp {environment.version('xllamacpp')}",
            not_run=("the program llama-server of a release: the same code ran inside of the xllamacpp wheel",),
        )


def command(served: ServedLanguageModel) -> str:
    """Return the command line of llama-server, from the folder of the serving system."""
    options = [
        "llama-server", "-m", "../../model/model.gguf", "--alias", served.name, "-c", str(served.context * _PARALLEL),
        "-np", str(_PARALLEL), "-t", str(served.threads), "-ngl", "0", "--jinja", "-ctk", cache_type(served),
        "-ctv", cache_type(served), "--host", "127.0.0.1", "--port", str(_PORT),
    ]  # fmt: skip
    return shlex.join(options)


def _readme(served: ServedLanguageModel) -> list[str]:
    kind = f" ({served.detail})" if served.detail else ""
    chat = (
        "- The chat template is the one inside of the GGUF."
        if served.chat
        else "- The GGUF has no chat template: ask `/v1/completions`; chats would get a template that the model does not know."
    )
    return [
        f"# {served.name}{kind} in llama.cpp",
        "",
        "Start it, from this folder, with what `mopt tools install llama_cpp` brings (llama-server inside of Python):",
        "",
        "```console",
        "$(mopt tools install llama_cpp | tail -n 1 | sed 's/^[^ ]*: //')/bin/python serve.py",
        "```",
        "",
        "Or with a llama-server that you have:",
        "",
        "```console",
        command(served),
        "```",
        "",
        "Ask it, and read the answer as it is written:",
        "",
        "```console",
        *request_lines(served, _PORT),
        "```",
        "",
        f"- {_PARALLEL} requests are answered at once on {served.threads} threads, each with {served.context} tokens of",
        "  prompt and answer; further ones wait. `--parallel`, `--threads`, `--context`, `--host`, `--port` say otherwise.",
        f"- Keys and values are kept in {cache_type(served)}, as the quality was judged.",
        "- It counts for Prometheus at `/metrics` (llama-server: add `--metrics`).",
        chat,
    ]
