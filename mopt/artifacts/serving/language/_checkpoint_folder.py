"""What the folders of all servers have that load a Hugging Face checkpoint: a README, a request that streams, options."""

from __future__ import annotations

__all__ = ["check_options", "refuse", "request_text", "write_checkpoint_readme"]

import json
from collections.abc import Sequence
from pathlib import Path

from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._capabilities import capabilities
from mopt.errors import NotApplicableError
from mopt.records.serving import Proof

_ANSWER = 64


def refuse(system: LanguageServing, served: ServedLanguageModel) -> None:
    """Refuse to write files for what a system does not serve.

    Raises:
        NotApplicableError: With the reason.
    """
    if served.format != "huggingface":
        raise NotApplicableError(f"{system.name} loads checkpoints of Hugging Face, not {served.format}")
    if served.method not in system.methods:
        raise NotApplicableError(f"{system.name} does not load {served.method}; it loads {', '.join(system.methods)}")
    if reason := system.refuses(served):
        raise NotApplicableError(reason)


def request_text(served: ServedLanguageModel, *, port: int) -> str:
    """Return a ``curl`` command whose answer streams: a chat, or a completion where the model has no chat template."""
    content: dict[str, object] = {"model": model_name(served.name), "max_tokens": _ANSWER, "stream": True}
    if served.chat:
        path, content = "chat/completions", {**content, "messages": [{"role": "user", "content": "Say hello."}]}
    else:
        path, content = "completions", {**content, "prompt": "Once upon a time"}
    body = json.dumps(content)
    return f"curl -sN localhost:{port}/v1/{path} -H 'Content-Type: application/json' \\\n  -d '{body}'"


def write_checkpoint_readme(
    folder: Path, *, title: str, served: ServedLanguageModel, start: str, request: str, notes: Sequence[str]
) -> None:
    """Write ``README.md``.

    Args:
        folder: Of the serving system.
        title: Name of the system as its makers write it.
        served: The model.
        start: Shell command that starts it, from this folder.
        request: Shell command that asks it, and is answered piece by piece.
        notes: What people must know, a line each.
    """
    held = f"{served.detail}, " if served.detail else ""
    packed = "not quantized" if served.method == "none" else f"packed as {served.method}"
    parts = [
        *(
            f"# {_plain(served.name)} in {title}",
            "",
            "Start it, from this folder:",
            "",
            "```console",
            *start.splitlines(),
            "```",
        ),
        *("", "Ask it; the answer streams:", "", "```console", *request.splitlines(), "```", ""),
        f"The checkpoint is ../../model: {_plain(served.architecture)}, {_plain(held)}{packed}.",
        f"Prompt and answer may have {served.context} tokens together.",
        *("", *(f"- {_plain(note)}" for note in notes)),
    ]
    (folder / "README.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def check_options(server: str, options: Sequence[str]) -> Proof:
    """Prove that a server's command line has the options that our files set."""
    known = capabilities(server)
    unknown = [option for option in options if option not in known.options]
    detail = f"{known.source} has no {', '.join(unknown)}" if unknown else f"{', '.join(options)}: in {known.source}"
    return Proof(part="options, by its own source", state="failed" if unknown else "proven", detail=detail)


def _plain(text: str) -> str:
    """One line without what Markdown or HTML would read."""
    return "".join(char if char.isprintable() and char not in "<>`[]*|" else " " for char in text)
