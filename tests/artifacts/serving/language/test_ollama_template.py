import pytest

from mopt.artifacts.serving.language._go_template import render_go
from mopt.artifacts.serving.language._ollama_template import compare_template, derive_template
from mopt.errors import NotApplicableError

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}"
    "{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}"
    "{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' "
    "+ message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Bye"},
]


def test_chatml() -> None:
    derived = derive_template(CHATML, bos="", eos="<|im_end|>", adds_bos=False)
    assert render_go(derived.template, CHAT) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert derived.stops == ("<|im_end|>",)
    assert not derived.notes
    assert derived.chats >= 30


def test_an_answer_that_has_begun_goes_on() -> None:
    derived = derive_template(CHATML, bos="", eos="<|im_end|>", adds_bos=False)
    assert render_go(derived.template, CHAT[1:3]).endswith("<|im_start|>assistant\nYes?")


def test_a_system_message_of_its_own() -> None:
    derived = derive_template(DEFAULT_SYSTEM, bos="", eos="<|im_end|>", adds_bos=False)
    assert render_go(derived.template, CHAT[1:2]).startswith(
        "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\n"
    )
    assert "helpful" not in render_go(derived.template, CHAT)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_start_token_is_there_once(adds_bos: bool) -> None:
    derived = derive_template(LLAMA3, bos="<|begin|>", eos="<|eot_id|>", adds_bos=adds_bos)
    assert render_go(derived.template, CHAT).startswith("<|begin|>") is not adds_bos


def test_a_system_message_inside_of_the_first_question() -> None:
    derived = derive_template(LLAMA2, bos="<s>", eos="</s>", adds_bos=True)
    expected = "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Yes? </s><s>[INST] Bye [/INST]"
    assert render_go(derived.template, CHAT) == expected
    assert derived.notes == ("the original cuts spaces at both ends of a message, Ollama's keeps them",)


def test_a_model_without_system_messages() -> None:
    derived = derive_template(GEMMA, bos="<bos>", eos="<eos>", adds_bos=True)
    assert render_go(derived.template, CHAT).startswith("<start_of_turn>user\nHi<end_of_turn>")
    assert any("no system messages" in note for note in derived.notes)
    assert derived.stops == ("<eos>", "<end_of_turn>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}", "today's date"),
        ("{% for m in messages %}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}", "leaves out or repeats"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "leaves out or repeats"),
        ("{% for m in messages %}{{ loop.index }}{{ m.role }}{{ m.content }}{% endfor %}", "more than roles"),
        ("{% for m in messages %}{{ m.role }}{{ m.content | upper }}{% endfor %}", "more than roles"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_no_template_of_ollama_can_do_is_refused(template: str, reason: str) -> None:
    with pytest.raises(NotApplicableError, match=reason):
        derive_template(template, bos="<s>", eos="</s>", adds_bos=False)


def test_a_wrong_template_is_noticed() -> None:
    right = derive_template(CHATML, bos="", eos="<|im_end|>", adds_bos=False).template
    assert compare_template(right, CHATML, bos="", eos="<|im_end|>", adds_bos=False) >= 30
    wrong = right.replace("<|im_start|>user", "<|im_start|>human")
    with pytest.raises(NotApplicableError, match="human"):
        compare_template(wrong, CHATML, bos="", eos="<|im_end|>", adds_bos=False)
