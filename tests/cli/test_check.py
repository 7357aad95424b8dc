import json

import pytest
from typer.testing import CliRunner

from mopt.cli import app

GOOD = """
model = "m.onnx"
tolerance = "1%"
[data]
path = "samples.npz"
[traffic]
rate = 100
[gate]
limits = { p99 = "+5%" }
"""


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (GOOD.replace("rate = 100", "rate = -1"), 7, "greater than 0"),
        (GOOD.replace("rate", "rates"), 7, "unknown key in the recipe: traffic.rates (did you mean rate?)"),
        (GOOD.replace('"1%"', '"much"'), 3, "the tolerance much is no amount"),
        (GOOD.replace("p99 =", "p9 ="), 9, "nothing is called p9"),
        (GOOD.replace("[traffic]", 'slices = 3\n[traffic]'), 6, "data.slices: Input should be a valid tuple"),
        ('metric = "acuracy"\n' + GOOD, 1, "did you mean accuracy?"),
        ('target = "nvidia-l44"\n' + GOOD, 1, "unknown target: nvidia-l44"),
        ('serve = ["tritn"]\n' + GOOD, 1, "did you mean triton?"),
        ("model = ", None, "is not TOML"),
        (GOOD.replace('model = "m.onnx"', ""), None, "the recipe lacks model"),
    ],
)  # fmt: skip
def test_check_names_key_and_line_of_each_mistake(tmp_path, monkeypatch, text, place, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.toml").write_text(GOOD)
    (tmp_path / "bad.toml").write_text(text)
    outcome = CliRunner().invoke(app, ["check", "good.toml", "bad.toml"])
    assert outcome.exception.exit_code == 2
    assert "1 mistake in bad.toml" in outcome.exception.message
    good, bad = outcome.stdout.splitlines()
    assert good == "good.toml: ok"
    assert bad.startswith(f"bad.toml:{place}: " if place else "bad.toml: ")
    assert words in bad


def test_check_has_json_for_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text(GOOD.replace("rate = 100", 'rate = "x"\nspare = 99'))
    first, second = json.loads(CliRunner().invoke(app, ["check", "bad.toml", "--json"]).stdout)["bad.toml"]
    assert (first["key"], first["line"]) == ("traffic.rate", 7)
    assert (second["key"], second["line"]) == ("traffic.spare", 8)


def test_a_mistake_and_two_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(GOOD.replace("rate = 100", "rate = -1"))
    outcome = CliRunner().invoke(app, ["check", "a.toml", "b.toml"])
    assert outcome.exception.message == "2 mistakes in a.toml, b.toml"
