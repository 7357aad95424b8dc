"""A service in Python that speaks OpenAI's protocol, around a library that has no server of its own."""

from __future__ import annotations

__all__ = ["OpenAIService", "refused_architecture", "request_lines"]

import dataclasses
import functools
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.errors import NotApplicableError
from mopt.system.environments import Environment

_FILES = Path(__file__).parents[1] / "_files"
_TABLE = Path(__file__).parent / "_genai_capabilities.json"
"""Written by ``docs/generate_genai_capabilities.py`` from the libraries' own code."""
_MODEL = "../../model"
"""From ``ARTIFACT/serving/NAME``."""


@functools.cache
def _table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(_TABLE.read_text(encoding="utf-8"))
    return table


def refused_architecture(library: str, served: ServedLanguageModel) -> str:
    """Return why a library's export does not know an architecture; nothing when it does.

    Args:
        library: ``onnxruntime_genai`` or ``openvino_genai``.
        served: The model.
    """
    known = _table()[library]
    if served.architecture in known["architectures"]:
        return ""
    return f"{known['source']} has no export of {served.architecture}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenAIService(LanguageServing):
    """What serves a library that has no server: its engine behind ``service.py``, which speaks OpenAI's protocol."""

    title: ClassVar[str]
    """Of the library, as its makers write it."""
    distribution: ClassVar[str]
    """Its name on PyPI."""

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask the list of architectures that the library's own export knows."""
        return refused_architecture(self.environment, served)

    def settings(self, served: ServedLanguageModel, model_folder: Path) -> Mapping[str, Any]:
        """What the engine reads besides what all of them do."""
        return {}

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write ``service.py``, ``openai_protocol.py``, ``settings.json`` and ``README.md``."""
        if served.format not in self.methods:
            raise NotApplicableError(f"it loads models of {self.environment}, not {served.format}")
        shutil.copyfile(_FILES / "openai_protocol.py", folder / "openai_protocol.py")
        shutil.copyfile(_FILES / f"{self.environment}_service.py", folder / "service.py")
        plain = {
            "name": served.name, "model": _MODEL, "context": served.context, "threads": served.threads, "chat": served.chat,
        }  # fmt: skip
        settings = {**plain, **self.settings(served, model_folder)}
        (folder / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text("\n".join(_readme(served, self.title, self.environment)) + "\n", encoding="utf-8")

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
        """Start the service."""
        url = f"http://127.0.0.1:{ports.http}"
        return Launch(
            command=[environment.python, folder / "service.py", "--port", str(ports.http), "--model", model_folder],
            ready=[f"{url}/health"],
            url=f"{url}/v1",
            protocol="openai",
            model=served.name,
            environment={
                "PATH": environment.path,
                "PYTHONDONTWRITEBYTECODE": "1",
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": str(served.threads),
            },
            folder=folder,
            hopeless=["Traceback (most recent call last)"],
            version=f"{self.title} {environment.version(self.distribution)}",
        )


def _readme(served: ServedLanguageModel, title: str, environment: str) -> list[str]:
    return [
        f"# {served.name} in {title}",
        "",
        "Start it, from this folder:",
        "",
        "```console",
        f"$(mopt tools install {environment} | tail -n 1 | sed 's/^[^ ]*: //')/bin/python service.py",
        "```",
        "",
        "Ask it, and read the answer as it is written:",
        "",
        "```console",
        *request_lines(served, 8000),
        "```",
        "",
        f"- OpenAI's protocol at http://localhost:8000/v1: models, completions{', chat/completions' if served.chat else ''}.",
        f"- One request at a time on {served.threads} threads, as it was judged; others wait.",
        "- `python service.py --help` lists what can be said otherwise.",
        f"- Prompt and answer have {served.context} tokens together; a request that asks for more is refused.",
        "- Probabilities of tokens are not told: `logprobs` of a completion gets null. `return_token_ids` gives the tokens.",
        "- Temperature is 1 unless a request says otherwise; 0 takes the likeliest token, as it was judged.",
    ]


def request_lines(served: ServedLanguageModel, port: int) -> Sequence[str]:
    """Return a request with curl that streams."""
    asked = {"messages": [{"role": "user", "content": "Hello!"}]} if served.chat else {"prompt": "Once upon a time"}
    body = json.dumps({"model": served.name, **asked, "max_tokens": 64, "temperature": 0, "stream": True})
    path = "chat/completions" if served.chat else "completions"
    return [
        f"curl -N http://localhost:{port}/v1/{path} \\",
        f"  -H 'Content-Type: application/json' -d {shlex.quote(body)}",
    ]
