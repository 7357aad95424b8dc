import pytest
from ruamel.yaml import YAML

from mopt.artifacts.serving._yaml import to_yaml
from tests.manifests import HOSTILE

TEXTS = [
    HOSTILE, "", "yes", "No", "null", "~", "1", "1e3", "0x10", "2026-11-28", "a: b", "- a", "# a", "'", '"', "a\\b",
    " a ", "a\nb", "\u2028", "\u0085", "\ufeff", "\x7f", "😀", "{a}", "[a]", "*a", "&a", "!a", "%a", "@a", "`a`", "=", "<<",
    "2.5Gi", "a/b-c.d",
]  # fmt: skip


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_that_text_wherever_it_is(text, version):
    value = {text: text, "list": [text, [text], {text: text}], "end": {"end": text}}
    assert read(to_yaml(value), version) == value


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_numbers_truth_and_nothing_are_told_apart_from_text(version):
    value = {"a": 1, "b": 1.5, "c": True, "d": None, "e": [], "f": {}, "g": [{"h": [1, [2, {"i": []}]]}, {}, []], "j": -3}
    assert read(to_yaml(value), version) == value


def test_it_is_what_people_write():
    text = to_yaml({"kind": "InferenceService", "spec": {"ports": [{"name": "http1", "port": 8080}]}}, "what\nit is")
    assert text == "# what\n# it is\nkind: InferenceService\nspec:\n  ports:\n    - name: http1\n      port: 8080\n"


def test_a_comment_stays_a_comment():
    assert read(to_yaml({"a": 1}, HOSTILE + "\n\nb: 2\rc: 3\u2028d: 4"), "1.2") == {"a": 1}


def read(text, version):
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    return yaml.load(text)
