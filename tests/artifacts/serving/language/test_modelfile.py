import pytest

from mopt.artifacts.serving.language._modelfile import ModelfileError, modelfile, parse_modelfile


def test_what_was_written_is_read_back() -> None:
    template = '{{- range .Messages }}{{- "<|im_start|>" }}\n{{ .Content }}{{ end }}'
    parameters = [("num_ctx", 512), ("temperature", 0.7), ("stop", "<|im_end|>"), ("stop", "User:")]
    text = modelfile(source="../../model/model.gguf", template=template, parameters=parameters, licences=["MIT\n\nCopyright"])
    assert parse_modelfile(text) == [
        ("from", "../../model/model.gguf"),
        ("template", template),
        ("num_ctx", "512"),
        ("temperature", "0.7"),
        ("stop", "<|im_end|>"),
        ("stop", "User:"),
        ("license", "MIT\n\nCopyright"),
    ]


def test_the_documented_grammar() -> None:
    text = '# comment\n\nfrom  ./a b.gguf \nPaRaMeTeR stop  "a "b" c"\nMESSAGE user """two\nlines"""\nSYSTEM plain words\n'
    assert parse_modelfile(text) == [
        ("from", "./a b.gguf"),
        ("stop", 'a "b" c'),
        ("message", "user: two\nlines"),
        ("system", "plain words"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("PARAMETER num_ctx 1\n", "no FROM"),
        ("FROM x\nTEMPLAET y\n", "line 2: 'TEMPLAET' is no command"),
        ("FROM x\nPARAMETER num_ctxt 1\n", "no parameter of Ollama"),
        ("FROM x\nPARAMETER num_ctx many\n", "no int"),
        ("FROM x\nPARAMETER use_mmap 1\n", "no bool"),
        ("FROM x\nMESSAGE tool hi\n", "the role of a message"),
        ('FROM x\nTEMPLATE """open\nmore\n', "line 2: its quotation marks"),
        ('FROM x\nSYSTEM "open\n', "line 2: its quotation marks"),
    ],
)
def test_mistakes_are_told_with_their_line(text: str, reason: str) -> None:
    with pytest.raises(ModelfileError, match=reason):
        parse_modelfile(text)


@pytest.mark.parametrize("template", ['ends with a quote"', 'a line with """\nin it"', "\u200b"])
def test_what_cannot_be_quoted_is_not_written(template: str) -> None:
    with pytest.raises(ModelfileError):
        modelfile(source="x", template=template, parameters=[])


def test_unknown_parameters_are_not_written() -> None:
    with pytest.raises(ModelfileError, match="no parameter"):
        modelfile(source="x", template="", parameters=[("mirostat", 1)])
