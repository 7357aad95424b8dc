import datetime

import pytest

from mopt.errors import NotApplicableError
from mopt.model.chat_template import render_chat

CHAT = [{"role": "user", "content": "Hi"}]


def test_it_renders_as_transformers_does() -> None:
    template = (
        "{{ bos_token }}\n{% for m in messages %}\n  {% if true %}\n{{ m.role }}: {{ m['content'] | tojson }}{% break %}\n"
    )
    template += "  {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\nassistant:{% endif %}\n"
    assert render_chat(template, [{"role": "user", "content": 'é"'}], bos="<s>") == '<s>\nuser: "é\\""assistant:'


def test_what_it_may_not_do() -> None:
    for attack in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}"):
        with pytest.raises(NotApplicableError, match=r"unsafe|refuses"):
            render_chat(attack, CHAT)


def test_its_own_refusal_is_told() -> None:
    with pytest.raises(NotApplicableError, match="roles must alternate"):
        render_chat("{{ raise_exception('roles must alternate') }}", CHAT)


def test_a_broken_template_is_refused() -> None:
    for broken in ("{% for %}", "{{ 1 / 0 }}", "{{ missing.field.deeper }}", "x" * (1 << 21)):
        with pytest.raises(NotApplicableError):
            render_chat(broken, CHAT)


def test_it_is_told_the_date() -> None:
    date = datetime.datetime(2011, 2, 3, tzinfo=datetime.UTC)
    assert render_chat("{{ strftime_now('%Y-%m-%d') }}", CHAT, date=date) == "2011-02-03"
