"""The real server of a language model started on an artifact, asked over HTTP, and stopped: does it serve what was judged?"""

from __future__ import annotations

__all__ = ["verify_language_server"]

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mopt.artifacts.bundle import NOT_WRITTEN
from mopt.artifacts.language import LanguageArtifact, served_model
from mopt.artifacts.serving._base import Launch
from mopt.artifacts.serving.language._base import LanguageServing, make_language_serving
from mopt.errors import NotApplicableError, UserError
from mopt.loadgen.protocols._http import fetch, json_request
from mopt.loadgen.protocols._openai import (
    OpenAIEndpoint,
    connect_openai,
    greedy_tokens,
    prompt_logprobs,
    stream_chat,
    stream_completion,
)
from mopt.loadgen.server_process import ServerDiedError, free_ports, running
from mopt.progress import Progress, Silent
from mopt.records.benchmark import ServerVerification
from mopt.records.language import LanguageManifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment, find_environment

_START_SECONDS = 600.0
"""vLLM compiles a model when it starts."""
_BEYOND = 5
"""Contexts that a prompt has which no server may take: llama.cpp rounds a small context up."""
_ANSWER = 24
"""Tokens of an answer to a chat."""
_BEGINNING = 8
"""Characters in which two answers are alike before a near tie may part them."""


def verify_language_server(artifact: Path, server: str, *, progress: Progress | None = None) -> ServerVerification:
    """Prove as much as can be proven here of how a serving system serves an artifact.

    Args:
        artifact: A folder that a build wrote files for this system to.
        server: Name of a serving system, which is started and stopped; or the URL of a server that runs already.
        progress: Receives the stages.

    Raises:
        UserError: When the artifact is not what was built, has no files for the system, or no server listens at the URL.
    """
    progress = progress or Silent()
    built = LanguageArtifact.open(artifact)
    if ":" in server or "." in server:
        endpoint = _connect(server, built.manifest.name)
        return _verification(server, "", True, list(_asked(endpoint, built.manifest, progress)), {})
    system = make_language_serving(server)
    return _started(built, system, _folder(built, system), progress)


def _folder(built: LanguageArtifact, system: LanguageServing) -> Path:
    folder = built.folder.absolute() / "serving" / system.name
    if not folder.is_dir():
        raise UserError(
            f"{built.folder} has no files for {system.name}", f"mopt package {built.folder} --serve {system.name} writes them"
        )
    if (reason := folder / NOT_WRITTEN).is_file():
        raise UserError(" ".join(reason.read_text(encoding="utf-8").split()), "choose another serving system")
    return folder


def _started(built: LanguageArtifact, system: LanguageServing, folder: Path, progress: Progress) -> ServerVerification:
    manifest, served = built.manifest, served_model(built.manifest)
    progress.stage("checking the files", 1)
    environment = find_environment(system.environment) if system.environment else None
    model_folder = built.folder.absolute() / "model"
    proofs = list(system.check(folder, served=served, model_folder=model_folder, environment=environment))
    progress.step()
    if system.stands_in:
        proofs.append(Proof(part="server", state="not proven", detail=system.stands_in))
    with tempfile.TemporaryDirectory(prefix="mopt-server-") as scratch:
        try:
            if system.environment and environment is None:
                raise NotApplicableError(f"it is not installed; mopt tools install {system.environment} does that")
            launch = system.launch(
                folder,
                served=served,
                model_folder=model_folder,
                environment=environment or Environment("", Path()),
                ports=free_ports(),
                scratch=Path(scratch),
            )
        except NotApplicableError as error:
            if not system.stands_in:
                proofs.append(Proof(part="server", state="not proven", detail=f"did not run: {error.message}"))
            return _verification(system.name, "", False, proofs, {})
        return _run(launch, system, manifest, proofs, progress)


def _run(
    launch: Launch, system: LanguageServing, manifest: LanguageManifest, proofs: list[Proof], progress: Progress
) -> ServerVerification:
    progress.stage(f"starting {launch.version or system.name}", 1)
    proofs = [*proofs, *(Proof(part="server", state="not proven", detail=reason) for reason in launch.not_run)]
    try:
        with running(launch, seconds=_START_SECONDS) as start_s:
            progress.step(f"ready after {start_s:.1f} s")
            proofs.append(Proof(part="start", state="proven", detail=f"ready after {start_s:.1f} s"))
            proofs += _asked(_connect(launch.url, launch.model), manifest, progress)
    except ServerDiedError as error:
        proofs.append(Proof(part="start", state="failed", detail=error.message))
        return _verification(system.name, launch.version, False, proofs, {})
    return _verification(system.name, launch.version, True, proofs, {"start": start_s})


def _connect(url: str, model: str) -> OpenAIEndpoint:
    try:
        return connect_openai(url, model=model)
    except UserError:
        return connect_openai(url)


def _asked(endpoint: OpenAIEndpoint, manifest: LanguageManifest, progress: Progress) -> Iterator[Proof]:
    """Everything that is asked of a server that is up."""
    parts: list[tuple[str, Callable[[OpenAIEndpoint, LanguageManifest], Proof]]] = [
        ("greedy tokens", _tokens),
        ("probabilities", _probabilities),
        ("streaming", _streaming),
        *([("chat", _chat)] if manifest.golden.conversations else []),
        ("bad requests", _refusals),
    ]
    progress.stage("asking the server", len(parts))
    for part, prove in parts:
        try:
            yield prove(endpoint, manifest)
        except NotApplicableError as error:
            yield Proof(part=part, state="not proven", detail=error.message)
        except UserError as error:
            yield Proof(part=part, state="failed", detail=error.message)
        progress.step(part)


def _tokens(endpoint: OpenAIEndpoint, manifest: LanguageManifest) -> Proof:
    texts = [text for text in manifest.golden.texts if text.greedy]
    answers = [greedy_tokens(endpoint, text.ids, count=len(text.greedy)) for text in texts]
    same = sum(
        answer[: len(text.greedy)] == text.greedy[: len(answer)] and bool(answer)
        for answer, text in zip(answers, texts, strict=True)
    )
    first = sum(answer[:1] == text.greedy[:1] for answer, text in zip(answers, texts, strict=True))
    detail = f"{same} of {len(texts)} golden texts are continued with the tokens that were judged"
    if same == len(texts):
        return Proof(part="greedy tokens", state="proven", detail=detail)
    detail += f", {first} begin alike"
    state = "failed" if first * 2 < len(texts) else "not proven"
    return Proof(part="greedy tokens", state=state, detail=f"{detail}; a near tie may fall either way in another batch")


def _probabilities(endpoint: OpenAIEndpoint, manifest: LanguageManifest) -> Proof:
    import numpy as np

    golden = manifest.golden
    largest = max(
        float(np.abs(np.asarray(prompt_logprobs(endpoint, text.ids)) - np.asarray(text.logprobs)).mean())
        for text in golden.texts
    )
    detail = f"tokens of {len(golden.texts)} golden texts within {largest:.2g} nats on average, allowed {golden.tolerance:.2g}"
    return Proof(part="probabilities", state="proven" if largest <= golden.tolerance else "failed", detail=detail)


def _streaming(endpoint: OpenAIEndpoint, manifest: LanguageManifest) -> Proof:
    text = manifest.golden.texts[0]
    answer = stream_completion(endpoint, text.ids, count=_ANSWER)
    detail = (
        f"{answer.events} pieces, the first after {answer.first_seconds * 1e3:.0f} ms and the last after "
        f"{answer.seconds * 1e3:.0f} ms"
    )
    return Proof(part="streaming", state="proven" if answer.events > 1 else "not proven", detail=detail)


def _chat(endpoint: OpenAIEndpoint, manifest: LanguageManifest) -> Proof:
    """The server's template, by what it leads to: the same answer as the prompt that was judged."""
    chats = manifest.golden.conversations
    pairs = [
        (
            stream_chat(endpoint, chat.messages, count=_ANSWER).text.strip(),
            stream_completion(endpoint, chat.prompt, count=_ANSWER).text.strip(),
        )
        for chat in chats
    ]
    if not any(answer for answer, _ in pairs):
        return Proof(part="chat", state="failed", detail="its answers to chats are empty")
    same = sum(answer == expected for answer, expected in pairs)
    shown = " ".join(next(answer for answer, _ in pairs if answer).split())[:80]
    detail = f"{same} of {len(chats)} chats are answered as the prompt that the judged template makes: {shown!r}"
    if same == len(chats):
        return Proof(part="chat", state="proven", detail=detail)
    alike = sum(answer[:_BEGINNING] == expected[:_BEGINNING] for answer, expected in pairs)
    state = "failed" if alike * 2 < len(chats) else "not proven"
    return Proof(part="chat", state=state, detail=f"{detail}; {alike} begin alike")


def _refusals(endpoint: OpenAIEndpoint, manifest: LanguageManifest) -> Proof:
    """Send what is no request: each must be refused as the caller's mistake, and the server go on."""
    wrong = []
    mistakes = {
        "messages that are no list": {"model": endpoint.model, "messages": "hello", "max_tokens": 2},
        "a prompt beyond the context": {
            "model": endpoint.model, "max_tokens": 2,
            "prompt": [manifest.golden.texts[0].ids[-1]] * (_BEYOND * manifest.context),
        },
    }  # fmt: skip
    for name, content in mistakes.items():
        path = "chat/completions" if "messages" in content else "completions"
        status = fetch(endpoint.server, f"{endpoint.path}/{path}", json_request(content), 60.0).status
        if not 400 <= status < 500:
            wrong.append(f"{name}: HTTP {status}")
    greedy_tokens(endpoint, manifest.golden.texts[0].ids, count=1)
    detail = "; ".join(wrong) or f"{', '.join(mistakes)}: each refused, and the server goes on"
    return Proof(part="bad requests", state="failed" if wrong else "proven", detail=detail)


def _verification(
    system: str, version: str, started: bool, proofs: list[Proof], seconds: dict[str, float]
) -> ServerVerification:
    return ServerVerification(
        system=system,
        version=version,
        ok=all(proof.state != "failed" for proof in proofs),
        started=started,
        proofs=tuple(proofs),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
