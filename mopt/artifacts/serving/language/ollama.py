"""Ollama: a GGUF with a Modelfile."""

from __future__ import annotations

__all__ = ["Ollama"]

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._gguf_serving import check_gguf, refused_gguf
from mopt.artifacts.serving.language._go_template import GoTemplateError
from mopt.artifacts.serving.language._modelfile import ModelfileError, modelfile, parse_modelfile
from mopt.artifacts.serving.language._ollama_template import OllamaTemplate, compare_template, derive_template
from mopt.artifacts.serving.language._openai_service import request_lines
from mopt.errors import NotApplicableError, UserError
from mopt.model.formats import model_format
from mopt.model.gguf import GGUF, open_gguf
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_PORT = 11434
_SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "typical_p": "typical_p"}
"""Settings of ``generation_config.json`` under the names that Ollama has for them."""
_BASE_TEMPLATE = "{{ .Prompt }}"
_FILE = "Modelfile"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ollama(LanguageServing):
    """The template in Go is derived from the one in Jinja, and both are rendered on the same chats."""

    runtimes: ClassVar[tuple[str, ...]] = ("llama_cpp",)
    stands_in: ClassVar[str] = (
        "no server of Ollama can be installed here: the same GGUF ran in llama.cpp, whose code Ollama runs it with; the "
        "Modelfile was read by its documented grammar, and its template rendered against the model's own"
    )
    methods: ClassVar[tuple[str, ...]] = ("gguf",)

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask the list of architectures of llama.cpp; keys and values are kept as the server's environment says."""
        if served.kv_cache:
            return "a Modelfile cannot say what type keys and values are kept in: OLLAMA_KV_CACHE_TYPE is the server's"
        return refused_gguf(served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write ``Modelfile`` and ``README.md``.

        Raises:
            NotApplicableError: Also when a template of Ollama cannot do what the chat template does.
        """
        if served.format != "gguf":
            raise NotApplicableError(f"Ollama loads GGUF, not {served.format}")
        if reason := self.refuses(served):
            raise NotApplicableError(reason)
        gguf = _open(model_folder)
        derived = derive(gguf) if served.chat else None
        try:
            text = modelfile(
                source="../../model/model.gguf",
                template=derived.template if derived else _BASE_TEMPLATE,
                parameters=_parameters(served, model_folder, derived.stops if derived else ()),
                licences=_licences(model_folder),
            )
        except ModelfileError as error:
            raise NotApplicableError(f"no Modelfile can be written: {error}") from None
        (folder / _FILE).write_text(text, encoding="utf-8")
        notes = derived.notes if derived else ("the model has no chat template: prompts go to it as they are",)
        (folder / "README.md").write_text("\n".join(_readme(served, notes)) + "\n", encoding="utf-8")

    def check(
        self, folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment | None
    ) -> Sequence[Proof]:
        """Read the Modelfile back, render its template against the GGUF's, and read the header of the GGUF."""
        try:
            commands = parse_modelfile((folder / _FILE).read_text(encoding="utf-8"))
        except ModelfileError as error:
            return (Proof(part=_FILE, state="failed", detail=str(error)),)
        detail = f"{len(commands)} commands by the documented grammar; Ollama itself did not read it"
        template = next((value for command, value in commands if command == "template"), "")
        return (
            Proof(part=_FILE, state="proven", detail=detail),
            *([_check_template(template, model_folder)] if served.chat else []),
            check_gguf(model_folder, served),
        )


def derive(gguf: GGUF) -> OllamaTemplate:
    """Derive the template of Ollama from the one in a GGUF.

    Raises:
        NotApplicableError: With the reason why it cannot be.
    """
    if not gguf.chat_template:
        raise NotApplicableError("the GGUF has lost its chat template")
    return derive_template(gguf.chat_template, **_special(gguf))


def _special(gguf: GGUF) -> dict[str, Any]:
    tokens = gguf.tokens

    def text(name: str) -> str:
        number = gguf.metadata.get(f"tokenizer.ggml.{name}_token_id", -1)
        return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else ""

    adds = gguf.metadata.get("tokenizer.ggml.add_bos_token", gguf.tokenizer == "llama")
    return {"bos": text("bos"), "eos": text("eos"), "adds_bos": bool(adds)}


def _check_template(template: str, model_folder: Path) -> Proof:
    part = "template"
    try:
        gguf = _open(model_folder)
        chats = compare_template(template, gguf.chat_template, **_special(gguf))
    except (NotApplicableError, GoTemplateError) as error:
        return Proof(part=part, state="failed", detail=str(error))
    return Proof(
        part=part, state="proven", detail=f"{chats} chats render as with the model's own; Ollama itself did not render"
    )


def _open(model_folder: Path) -> GGUF:
    try:
        return open_gguf(model_folder / model_format("gguf").main_file)
    except UserError as error:
        raise NotApplicableError(error.message) from None


def _parameters(served: ServedLanguageModel, model_folder: Path, stops: Sequence[str]) -> list[tuple[str, object]]:
    """What the makers of the model say of sampling; no penalty unless they say so, where Ollama has one by itself."""
    path = model_folder / "generation_config.json"
    try:
        generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        generation = {}
    parameters = {ours: generation[theirs] for theirs, ours in _SAMPLING.items() if _is_number(generation.get(theirs))}
    penalty = generation.get("repetition_penalty")
    parameters["repeat_penalty"] = penalty if _is_number(penalty) else 1
    plain = [("num_ctx", served.context), ("num_thread", served.threads), *parameters.items()]
    return [*plain, *(("stop", text) for text in stops if text.isprintable())]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _licences(model_folder: Path) -> list[str]:
    paths = sorted(path for path in model_folder.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE")))
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in paths if path.is_file()]


def _readme(served: ServedLanguageModel, notes: Sequence[str]) -> list[str]:
    kind = f" ({served.detail})" if served.detail else ""
    name = "".join(character if character.isalnum() or character in "-_." else "-" for character in served.name.lower())
    return [
        f"# {served.name}{kind} in Ollama",
        "",
        "Start it, from this folder, where `ollama serve` runs:",
        "",
        "```console",
        f"ollama create {name} -f Modelfile && ollama run {name}",
        "```",
        "",
        "Ask it, and read the answer as it is written:",
        "",
        "```console",
        *request_lines(dataclasses.replace(served, name=name), _PORT),
        "```",
        "",
        f"- Prompt and answer have {served.context} tokens together (`num_ctx`), on {served.threads} threads (`num_thread`).",
        f"- {Ollama.stands_in[0].upper()}{Ollama.stands_in[1:]}.",
        *(f"- {note[0].upper()}{note[1:]}." for note in notes),
    ]
