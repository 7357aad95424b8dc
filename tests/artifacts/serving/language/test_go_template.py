import pytest

from mopt.artifacts.serving.language._go_template import GoTemplateError, quote, render_go

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]

# What the text/template of Go 1.27 renders of the same.
RENDERED = {
    "a {{- /* c */ -}} b{{ if eq 1 2 }}x{{ else if not (ne 1 1) }} y {{- else }}z{{ end }} {{ len .Messages }}": "ab y 2",
    "{{- range .Messages }}[{{ .Role }}]{{ end -}}  \n end": "[system][user]end",
    "{{ range $i, $m := .Messages }}{{ $i }}{{ $m.Content }}{{ end }}": "0Be brief.1Hi",
    '{{ $last := "" }}{{ range .Messages }}{{ $last = .Role }}{{ end }}{{ $last }}': "user",
    '{{ $v := "a" }}{{ if true }}{{ $v := "b" }}{{ $v }}{{ end }}{{ $v }}': "ba",
    "{{ range $i, $_ := .Messages }}{{ eq (len (slice $.Messages $i)) 1 }};{{ end }}": "false;true;",
    '{{ and true "x" }}{{ or false "y" }}{{ eq "a" "b" "a" }}': "xytrue",
    "{{ `raw \\n` }}": "raw \\n",
}


@pytest.mark.parametrize("template", RENDERED)
def test_it_renders_as_go_does(template: str) -> None:
    assert render_go(template, CHAT) == RENDERED[template]


@pytest.mark.parametrize(
    "text", ['a"b\\n`c`{{x}}', "line\n\ttab\r", "\uff5c日本語 é", "\u200b\ue000\x00", "\U0001f600 \U000e0001", ""]
)
def test_a_literal_is_what_it_was(text: str) -> None:
    assert quote(text).isprintable(), "what cannot be printed would be dropped from a Modelfile"
    assert render_go(f"{{{{ {quote(text)} }}}}", CHAT) == text


@pytest.mark.parametrize(
    "broken",
    [
        "{{ if true }}", "{{ end }}", "{{ range .Messages }}", "{{ nothing . }}", "{{ .Missing }}", "{{ $undeclared }}",
        "{{ }}",
        "{{ .Messages", "{{ eq (1 2 }}", "{{ template \"x\" }}", "{{ 1 2 }}", "{{ .Messages | len }}",
    ],
)  # fmt: skip
def test_what_is_not_of_the_subset_is_refused(broken: str) -> None:
    with pytest.raises(GoTemplateError):
        render_go(broken, CHAT)
