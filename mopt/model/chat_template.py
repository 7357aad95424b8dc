"""Chat templates in Jinja, rendered as transformers does, in a sandbox: a template comes with the model and is hostile."""

from __future__ import annotations

__all__ = ["SOME_DATE", "render_chat"]

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mopt.errors import NotApplicableError

if TYPE_CHECKING:
    import jinja2

_MOST = 1 << 20
"""Characters of a template; the longest that are published have some tens of thousands."""
SOME_DATE = datetime.datetime(2000, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
"""What a template gets that asks for the time, so that the same chat is the same prompt."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, str]],
    *,
    bos: str = "",
    eos: str = "",
    generate: bool = True,
    date: datetime.datetime = SOME_DATE,
) -> str:
    """Return the prompt that a template makes of a chat.

    Args:
        template: In Jinja.
        messages: Each with ``role`` and ``content``.
        bos: Text of the start token.
        eos: Text of the end token.
        generate: Whether the prompt ends with what asks the model to answer.
        date: What ``strftime_now`` tells.

    Raises:
        NotApplicableError: When the template cannot be rendered, or refuses this chat; with what it says.
    """
    import jinja2

    try:
        prompt: str = _compiled(template, date).render(
            messages=[dict(message) for message in messages],
            bos_token=bos,
            eos_token=eos,
            add_generation_prompt=generate,
            tools=None,
            documents=None,
        )
    except jinja2.TemplateError as error:
        raise NotApplicableError(f"the chat template refuses it: {' '.join(str(error).split())[:300]}") from None
    except Exception as error:  # noqa: BLE001 a template can make Python raise anything
        raise NotApplicableError(f"the chat template fails: {type(error).__name__}: {str(error)[:300]}") from None
    return prompt


@functools.lru_cache(maxsize=16)
def _compiled(template: str, date: datetime.datetime) -> jinja2.Template:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(template) > _MOST:
        raise jinja2.TemplateError(f"it has {len(template)} characters")

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=refuse, strftime_now=date.strftime)
    return environment.from_string(template)


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """As transformers has it: without HTML's escapes, in the order of the dictionary."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
