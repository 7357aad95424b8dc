import dataclasses
import json

import pytest

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.evaluators.language.companions import GOLDEN_TEXTS, answers_of, differences, remarks, special_texts

BOS, END = 1, 2
SPECIAL = ("<s>", "<|end|>")


@dataclasses.dataclass
class Model:
    """A tokenizer of characters with two special tokens, and a template."""

    starts: int = 1
    specials: dict = dataclasses.field(default_factory=lambda: {"<s>": BOS, "<|end|>": END})
    template: str | None = "<|{role}|>{content}<|end|>"
    offset: int = 10
    lower: bool = False
    vocabulary: int = 2000
    joint: str = ""

    def tokenize(self, text):
        text = text.lower() if self.lower else text
        ids = [BOS] * self.starts
        while text:
            special = next((name for name in self.specials if text.startswith(name)), None)
            ids.append(self.specials[special] if special else ord(text[0]) + self.offset)
            text = text[len(special or " ") :]
        return ids

    def detokenize(self, ids):
        return self.joint.join(chr(token - self.offset) for token in ids if token > self.offset)

    def render(self, messages):
        if self.template is None:
            raise NotApplicableError("no template")
        return "".join(self.template.format(**message) for message in messages) + "<|assistant|>"

    def evidence(self):
        return {"vocabulary": self.vocabulary}


def compared(served, *, source=None, stops=(END,), **options):
    asked = {"special": SPECIAL, "bos": BOS, **options}
    return differences(answers_of(source or Model(), stops=(END,), **asked), answers_of(served, stops=stops, **asked))


def test_nothing_is_said_of_the_same():
    assert compared(Model()) == ()
    assert compared(Model(vocabulary=2048), stops=(END, 7)) == ()
    assert compared(Model(starts=0), source=Model(starts=0), bos=None) == ()


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (Model(starts=0), "start token: 1 is missing: 0 before each text instead of 1"),
        (Model(starts=2), "start token: 1 is doubled: 2 before each text instead of 1"),
        (Model(template=None), "chat template: lost; a chat is no prompt any more"),
        (
            Model(joint=" "),
            "text of tokens: 12 of 13 texts come back otherwise: 'H e l l o ,   w o r l d !', not 'Hello, world!'",
        ),
        (Model(vocabulary=1999), "vocabulary: 1999 tokens instead of 2000"),
    ],
)
def test_one_fault_is_one_line(served, said):
    assert compared(served) == (said,)


def test_a_start_token_that_the_source_does_not_put():
    assert compared(Model(starts=1), source=Model(starts=0), bos=None) == (
        "start token: 1 is put before each text, and the source puts none",
    )


def test_special_tokens_in_pieces():
    (line,) = compared(Model(specials={"<s>": BOS}))
    assert line == "special token: <|end|> is split into 7 pieces"
    (line,) = compared(Model(specials={"<s>": BOS, "<|end|>": 5}))
    assert line == "special token: <|end|> is [5] instead of [2]"


def test_another_tokenizer_and_one_that_normalises():
    (line,) = compared(Model(offset=11))
    assert line.startswith("another tokenizer: no text is split alike; 'Hello, world!' is [83, ")
    (line,) = compared(Model(lower=True))
    assert line.startswith("tokenizer: ")
    assert "'Hello, world!' is [114, 111, 118, 118] instead of [82, 111, 118, 118] from token 0 on" in line


def test_another_template():
    (line,) = compared(Model(template="<|{role}|> {content}<|end|>"))
    assert line == (
        "chat template: 3 of 3 chats become another prompt: '<|user|> Hi<|end|><|assistant|>' "
        "instead of '<|user|>Hi<|end|><|assistant|>'"
    )
    (line,) = compared(Model(), source=Model(template=None))
    assert line == "chat template: the served model has one, and the source has none"


def test_stop_tokens_that_lack():
    assert compared(Model(), stops=()) == ("stop tokens: 2 of the source's generation_config does not end an answer",)


def test_golden_texts_differ():
    assert len(set(GOLDEN_TEXTS)) == len(GOLDEN_TEXTS)


def test_special_tokens_of_a_folder(tmp_path):
    assert special_texts(tmp_path) == ()
    added = [{"content": text, "special": special} for text, special in (("<unk>", True), ("<|im_end|>", True), ("  ", False))]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    settings = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}, "chat_template": "{{ x }}<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert special_texts(tmp_path) == ("<|im_end|>", "<unk>", "<s>")
    (tmp_path / "chat_template.jinja").write_text("<s>{{ x }}")
    assert special_texts(tmp_path, 1) == ("<s>",)
    (tmp_path / "tokenizer.json").write_text("{")
    assert special_texts(tmp_path) == ("<s>", "<|im_end|>")


@dataclasses.dataclass
class AddsASpace(Model):
    """Puts a space before a text that has one already, as some implementations of SentencePiece do, and others do not."""

    def tokenize(self, text):
        ids = super().tokenize(text)
        return [*ids[:1], ord(" ") + self.offset, *ids[1:]] if text[:1].isspace() else ids


def test_a_space_before_a_text_that_has_one_is_a_remark():
    asked = {"special": SPECIAL, "bos": BOS, "stops": (END,)}
    source, served = answers_of(Model(), **asked), answers_of(AddsASpace(), **asked)
    assert differences(source, served) == ()
    (line,) = remarks(source, served)
    assert line.startswith("a text that begins with a space becomes other tokens: ' two leading  and double' is [42, 42, ")
    assert remarks(source, source) == ()


def test_a_start_token_that_a_server_puts_itself_is_not_missing_in_its_prompts():
    source = answers_of(Model(template="<s>{content}<|end|>"), special=SPECIAL, stops=(END,), bos=BOS)
    prompts = tuple(prompt.removeprefix("<s>") for prompt in source.prompts)
    assert prompts != source.prompts
    assert differences(source, dataclasses.replace(source, prompts=prompts)) == ()
    (line,) = differences(source, dataclasses.replace(source, prompts=tuple(f"{prompt} " for prompt in prompts)))
    assert line.startswith("chat template: 3 of 3 chats become another prompt")


@dataclasses.dataclass
class Refuses(Model):
    rejection: Rejection = Rejection.FAILED

    def render(self, messages):
        if messages[0]["role"] == "system":
            raise CandidateRejectedError(self.rejection, "jinja2.exceptions.TemplateError: no system role")
        return super().render(messages)


def test_a_template_may_refuse_a_chat_and_a_crash_is_none():
    assert compared(Refuses(), source=Refuses()) == ()
    (line,) = compared(Refuses())
    assert line == "chat template: 1 of 3 chats are refused by one of the two"
    with pytest.raises(CandidateRejectedError):
        compared(Refuses(rejection=Rejection.CRASHED))
