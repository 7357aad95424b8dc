"""llama-server, asked over a socket in a folder of its own for what the library does not offer: Jinja chat templates."""

from __future__ import annotations

__all__ = ["TemplateServer"]

import http.client
import json
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.gguf import GGUF

_SECONDS = 60.0
_CONTEXT = 256
"""Tokens of its cache: it renders, and decodes nothing."""


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class TemplateServer:
    """A llama-server that makes prompts of chats.

    It lives as long as its process: ending one that has hardly begun can wait for ever. The weights are mapped and not touched,
    so that this costs little memory.

    Raises:
        NotApplicableError: When the GGUF has no chat template; llama-server would take ChatML and say nothing.
    """

    def __init__(self, path: Path, gguf: GGUF) -> None:
        if not gguf.chat_template:
            raise NotApplicableError("the GGUF has no chat template")
        self._folder = tempfile.TemporaryDirectory()
        self._address = Path(self._folder.name) / "server.sock"
        self._server = _serve(path, self._address)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt that llama-server makes of a chat.

        Raises:
            CandidateRejectedError: When it cannot render it, with the reason.
        """
        return _apply(self._address, messages)


def _serve(path: Path, address: Path) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = [str(address)]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = _CONTEXT, 1, 0
    params.warmup, params.use_jinja, params.no_extra_bufts, params.fit_params = False, True, True, False
    return xllamacpp.Server(params)


def _apply(address: Path, messages: Sequence[Mapping[str, str]]) -> str:
    connection = _SocketConnection(address)
    try:
        body = json.dumps({"messages": [dict(message) for message in messages], "add_generation_prompt": True})
        connection.request("POST", "/apply-template", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CandidateRejectedError(Rejection.FAILED, f"llama-server does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status != 200:
        reason = str(data.get("error", data))[:300]
        raise CandidateRejectedError(Rejection.FAILED, f"llama-server cannot render the chat template: {reason}")
    return str(data["prompt"])
