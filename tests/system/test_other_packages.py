"""Plugins of another package: found, named, asked for, and in the keys of the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.packages import install, python

PASS = '''
"""Nothing."""
import dataclasses
from mopt.passes._base import GraphPass, PassResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nothing(GraphPass):
    """Does nothing."""

    bits: int = 8

    def rewrite(self, model):
        return PassResult(False)
'''


def ask(folder: Path, expression: str) -> Any:
    """What an expression about ``plugins`` is, in a process where the package is installed."""
    code = f"import json; from mopt.system import plugins; print(json.dumps({expression}))"
    done = python(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(folder: Path, kind: str, name: str) -> str:
    code = (
        f"from mopt.system import plugins\nfrom mopt.errors import UserError\n"
        f"try:\n    plugins.load({kind!r}, {name!r})\nexcept UserError as error:\n    print(error.message, '/', error.hint)"
    )
    done = python(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_called_as_its_entry_point_is_not_as_its_file(tmp_path: Path) -> None:
    install(tmp_path, "theirs", {"code": PASS}, {"passes/do_nothing": "code:Nothing"})
    assert "do_nothing" in ask(tmp_path, "plugins.names('passes')")
    assert ask(tmp_path, "plugins.load('passes', 'do_nothing')().name") == "do_nothing"
    assert ask(tmp_path, "plugins.load('passes', 'do_nothing')().key()['plugin']['package']") == "theirs 1.0"
    assert ask(tmp_path, "plugins.code_of(plugins.load('passes', 'fold_constants'))") == {}


@pytest.mark.slow
@pytest.mark.parametrize("change", ["version", "module", "neighbour"])
def test_a_key_misses_when_the_package_changed(tmp_path: Path, change: str) -> None:
    plugins = {"passes/do_nothing": "code:Nothing"}
    install(tmp_path, "theirs", {"code": PASS}, plugins)
    question = "[plugins.load('passes', 'do_nothing')().key(), plugins.installed()]"
    before = ask(tmp_path, question)
    assert before == ask(tmp_path, question)
    assert before[1]["passes/do_nothing"] == before[0]["plugin"]
    modules = {"module": {"code": PASS + "\n"}, "neighbour": {"code": PASS, "other": "x = 1\n"}}.get(change, {"code": PASS})
    install(tmp_path, "theirs", modules, plugins, "1.1" if change == "version" else "1.0")
    after = ask(tmp_path, question)
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_nothing_is_imported_to_tell_names_and_keys(tmp_path: Path) -> None:
    install(tmp_path, "theirs", {"code": "raise SystemExit('it was imported')"}, {"passes/do_nothing": "code:Nothing"})
    assert "passes/do_nothing" in ask(tmp_path, "[plugins.names('passes'), plugins.installed()][1]")


@pytest.mark.parametrize(
    ("source", "entry", "words"),
    [
        ("import nothing_of_that_name", "code:Nothing", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        (PASS, "code:Nothin", "AttributeError: module 'theirs.code' has no attribute 'Nothin'"),
        (PASS, "gone:Nothing", "ModuleNotFoundError: No module named 'theirs.gone'"),
        ("1 / 0", "code:Nothing", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_one_is_told_when_it_is_asked_for_and_not_before(tmp_path: Path, source: str, entry: str, words: str) -> None:
    install(tmp_path, "theirs", {"code": source}, {"passes/do_nothing": entry})
    message = refused(tmp_path, "passes", "do_nothing")
    assert message.startswith(f"the pass do_nothing of theirs 1.0 cannot be loaded: {words}")
    assert "/ mend or uninstall that package" in message
    assert not refused(tmp_path, "passes", "fold_constants")


def test_a_name_of_mopt_cannot_be_taken(tmp_path: Path) -> None:
    install(tmp_path, "theirs", {"code": PASS}, {"passes/fold_constants": "code:Nothing"})
    assert "the pass fold_constants is mopt's own, and theirs 1.0 has one of that name" in refused(
        tmp_path, "passes", "fold_constants"
    )
