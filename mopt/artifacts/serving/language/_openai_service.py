"""A service in Python that speaks OpenAI's protocol, around a library that has no server of its own."""

from __future__ import annotations

__all__ = ["launch_service", "refused_architecture", "write_service"]

import functools
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving.language._base import ServedLanguageModel
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


def write_service(
    folder: Path, *, served: ServedLanguageModel, title: str, environment: str, service: str, settings: Mapping[str, Any]
) -> None:
    """Write ``service.py``, ``openai_protocol.py``, ``settings.json`` and ``README.md``.

    Args:
        folder: Empty.
        served: The model.
        title: Of the library, as its makers write it.
        environment: Of ``mopt tools`` that has it.
        service: File with the engine.
        settings: What the engine reads besides.
    """
    shutil.copyfile(_FILES / "openai_protocol.py", folder / "openai_protocol.py")
    shutil.copyfile(_FILES / service, folder / "service.py")
    plain = {"name": served.name, "model": _MODEL, "context": served.context, "threads": served.threads, "chat": served.chat}
    (folder / "settings.json").write_text(json.dumps({**plain, **settings}, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text("\n".join(_readme(served, title, environment)) + "\n", encoding="utf-8")


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


def launch_service(
    folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment, ports: Ports, version: str
) -> Launch:
    """Say how the service is started."""
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
        version=version,
    )
