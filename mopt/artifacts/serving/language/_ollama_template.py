"""A chat template in Jinja as a template of Ollama: derived from what it renders, and compared with it.

What stands before the content of a message depends, in the templates that models are published with, on its role and on the
role before it. So a handful of chats with known contents shows all of it; further chats prove that nothing else matters.
"""

from __future__ import annotations

__all__ = ["OllamaTemplate", "compare_template", "derive_template"]

import dataclasses
import datetime
import itertools
from collections.abc import Mapping, Sequence

from mopt.artifacts.serving.language._go_template import quote, render_go
from mopt.errors import NotApplicableError
from mopt.model.chat_template import SOME_DATE, render_chat

_Chat = Sequence[Mapping[str, str]]
_ROLES = ("system", "user", "assistant")
_OTHER_DATE = datetime.datetime(2011, 11, 22, 10, 11, 12, tzinfo=datetime.UTC)
_CONTENTS = ("Hello, World.", "What is 2 + 2?\nAnd 3 * 3?", 'naïve "quotes" & <tags> {braces} %', "x", "日本語 text")
_STARTS = (("user",), ("system", "user"))
_REPLY = ("assistant", "user")


@dataclasses.dataclass(frozen=True)
class OllamaTemplate:
    """What a Modelfile needs of a chat template.

    Attributes:
        template: In Go.
        stops: Texts after which an answer is over.
        notes: What it cannot do that the original does, for people to read.
        chats: That render the same in both.
    """

    template: str
    stops: tuple[str, ...]
    notes: tuple[str, ...]
    chats: int


def derive_template(template: str, *, bos: str, eos: str, adds_bos: bool) -> OllamaTemplate:
    """Derive the template of Ollama.

    Args:
        template: In Jinja.
        bos: Text of the start token.
        eos: Text of the end token.
        adds_bos: Whether the runtime puts the start token before every prompt, so that the template must not.

    Raises:
        NotApplicableError: When it depends on something that a template of Ollama cannot know, with the reason.
    """
    source = _Source(template, bos, eos, adds_bos)
    notes = source.notes()
    system = source.takes_system()
    if not system:
        notes.append("the model knows no system messages, and Ollama leaves them out")
    transitions, ending = _learn(source, system)
    written = _write(transitions, ending)
    chats = compare_template(written, template, bos=bos, eos=eos, adds_bos=adds_bos)
    return OllamaTemplate(written, _stops(transitions, eos), tuple(notes), chats)


def compare_template(written: str, template: str, *, bos: str, eos: str, adds_bos: bool) -> int:
    """Render chats with a template of Ollama and with the original; return how many.

    Args:
        written: In Go.
        template: In Jinja.
        bos: As for :func:`derive_template`.
        eos: As for :func:`derive_template`.
        adds_bos: As for :func:`derive_template`.

    Raises:
        NotApplicableError: When one of them differs, with the place.
        GoTemplateError: When the first is none of the subset that is known.
    """
    source = _Source(template, bos, eos, adds_bos)
    chats = _chats(source.takes_system())
    for chat in chats:
        expected, given = source.render(chat), render_go(written, chat)
        if expected != given:
            roles = " ".join(message["role"] for message in chat)
            raise NotApplicableError(
                f"the chat template depends on more than roles: for {roles} it gives {_where(expected, given)}"
            )
    return len(chats)


class _Source:
    """The original, rendered."""

    def __init__(self, template: str, bos: str, eos: str, adds_bos: bool) -> None:
        self._template, self._bos, self._eos, self._adds_bos = template, bos, eos, adds_bos

    def render(self, chat: _Chat, date: datetime.datetime = SOME_DATE) -> str:
        prompt = render_chat(self._template, chat, bos=self._bos, eos=self._eos, date=date)
        return prompt.removeprefix(self._bos) if self._adds_bos and self._bos else prompt

    def takes_system(self) -> bool:
        try:
            return "QSYSQ" in self.render(_chat(("system", "user"), ("QSYSQ", "QUSERQ")))
        except NotApplicableError:
            return False

    def notes(self) -> list[str]:
        notes = []
        chat = _chat(("user",), ("Hello",))
        if self.render(chat) != self.render(chat, _OTHER_DATE):
            raise NotApplicableError("the chat template writes today's date, which would stay the day of this build")
        if self.render(_chat(("user",), ("  Hello \n",))) == self.render(chat):
            notes.append("the original cuts spaces at both ends of a message, Ollama's keeps them")
        return notes


def _chat(roles: Sequence[str], contents: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def _learn(source: _Source, system: bool) -> tuple[dict[tuple[str, str], str], str]:
    """Return the text before a message by the role before it (empty at the start) and its own, and what ends a prompt."""
    transitions: dict[tuple[str, str], str] = {}
    endings = set()
    for start in _STARTS if system else _STARTS[:1]:
        roles = [*start, *_REPLY]
        marks = [f"Q{number}MARK{role.upper()}Q" for number, role in enumerate(roles)]
        rest = source.render(_chat(roles, marks))
        before = ""
        for role, mark in zip(roles, marks, strict=True):
            text, separator, rest = rest.partition(mark)
            if not separator or mark in rest:
                raise NotApplicableError(f"the chat template leaves out or repeats a message of the {role}")
            transitions.setdefault((before, role), text)
            before = role
        endings.add(rest)
    if len(endings) != 1:
        raise NotApplicableError("the chat template ends differently with and without a system message")
    return transitions, endings.pop()


def _write(transitions: Mapping[tuple[str, str], str], ending: str) -> str:
    """Write it as a loop that remembers the role before; all text is in literals, so that no space is lost."""
    branches: dict[str, list[tuple[str, str]]] = {role: [] for role in _ROLES}
    for (before, role), text in transitions.items():
        branches[role].append((before, text))
    written = ['{{- $before := "" }}', "{{- range $index, $_ := .Messages }}"]
    keyword = "if"
    for role, cases in branches.items():
        if cases:
            written += [
                f"{{{{- {keyword} eq .Role {quote(role)} }}}}",
                *_write_cases(cases),
                "{{- .Content }}",
                "{{- $before = .Role }}",
            ]
            keyword = "else if"
    written += [
        "{{- end }}",
        '{{- if and (ne .Role "assistant") (eq (len (slice $.Messages $index)) 1) }}',
        *([f"{{{{- {quote(ending)} }}}}"] if ending else []),
        "{{- end }}",
        "{{- end }}",
    ]
    return "\n".join(written)


def _write_cases(cases: Sequence[tuple[str, str]]) -> list[str]:
    """The text before a message, by what came before it; what came before decides nothing where all are the same."""
    if len({text for _, text in cases}) == 1:
        return [f"{{{{- {quote(cases[0][1])} }}}}"] if cases[0][1] else []
    lines = []
    for position, (before, text) in enumerate(cases):
        last = position == len(cases) - 1
        lines.append("{{- else }}" if last else f"{{{{- {'else if' if position else 'if'} eq $before {quote(before)} }}}}")
        if text:
            lines.append(f"{{{{- {quote(text)} }}}}")
    return [*lines, "{{- end }}"]


def _chats(system: bool) -> list[_Chat]:
    """Chats of up to nine messages, with contents of several kinds, other than those that it was learned from."""
    chats: list[_Chat] = []
    for start, replies in itertools.product(_STARTS if system else _STARTS[:1], range(4)):
        roles = [*start, *(_REPLY * replies)]
        for shift in range(len(_CONTENTS)):
            chats.append(_chat(roles, [_CONTENTS[(index + shift) % len(_CONTENTS)] for index in range(len(roles))]))
    return chats


def _where(expected: str, given: str) -> str:
    at = next((index for index, pair in enumerate(zip(expected, given, strict=False)) if pair[0] != pair[1]), len(given))
    return f"{expected[max(0, at - 20) : at + 30]!r}, where roles alone would give {given[max(0, at - 20) : at + 30]!r}"


def _stops(transitions: Mapping[tuple[str, str], str], eos: str) -> tuple[str, ...]:
    """What follows an answer, up to the end of its first marker: the end token, or text that has no token of its own."""
    after = transitions.get(("assistant", "user"), "")
    marker = after.strip().split("\n")[0]
    if marker.startswith("<") and ">" in marker:
        marker = marker[: marker.index(">") + 1]
    return tuple(dict.fromkeys(text for text in (eos, marker) if text))
