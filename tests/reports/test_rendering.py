import jinja2
import pytest

from mopt.reports.rendering import Fact, environment, facts_of, markdown_text, plain_text, visible_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b `c` [d](e) <f>", r"a\|b \`c\` \[d\](e) \<f\>"),
        ("_leading and trailing_, but not in_between", r"\_leading and trailing\_, but not in_between"),
        ("one\nline\x00", "one line\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_markup_in_a_name_is_escaped(text, expected):
    assert markdown_text(text) == expected


def test_only_plain_strings_are_touched():
    assert markdown_text(7) == visible_text(7) == 7
    fenced = environment(markdown_text).filters["code"]("a | b")
    assert markdown_text(fenced) is fenced, "what is Markdown already is not escaped again"


def test_a_page_shows_no_control_characters_and_keeps_its_lines():
    assert visible_text("a\x1b[1m\n\tb") == "a\N{REPLACEMENT CHARACTER}[1m\n\tb"


def test_a_fence_is_longer_than_any_in_its_content():
    text = str(environment(markdown_text).filters["code"]("echo ````"))
    assert text == "`````\necho ````\n`````"


def test_facts_are_json_data_as_short_lines():
    values = {"yes": True, "share": 0.12345, "nothing": {}, "nested": {"a": [1, 2], "b": None}, "long": "x" * 500}
    facts = {fact.name: fact.value for fact in facts_of(values)}
    assert facts.pop("long") == "x" * 400 + "…"
    assert facts == {"yes": "yes", "share": "0.1235", "nothing": "none", "nested": "a 1, 2"}
    assert plain_text(None) == ""


def test_a_list_of_facts_is_escaped_line_by_line():
    text = str(environment(markdown_text).filters["facts"]([Fact("a*", "b|"), Fact("c", "d")]))
    assert text == "- a\\*: b\\|\n- c: d\n"


def test_a_name_that_a_template_misspells_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ nobody }}").render()
