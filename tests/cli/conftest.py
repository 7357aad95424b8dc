import sys
from typing import Any

import pytest

from mopt.progress import Silent
from tests.cli.results import RESULTS
from tests.small import digits


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("small"))


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the workflows are given, in order; nothing of them is run."""
    calls: list[str] = []

    def replace(place: str, make: Any) -> None:
        def note(*arguments: Any, **named: Any) -> Any:
            calls.append(f"{place} {_text(arguments)} {_text(named)}")
            return make()

        monkeypatch.setattr(place, note)

    for place, make in RESULTS.items():
        replace(place, make)
    monkeypatch.setattr(sys, "argv", ["mopt"])
    return calls


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str({name: "no progress" if isinstance(inner, Silent) else _text(inner) for name, inner in value.items()})
    return str([_text(inner) for inner in value]) if isinstance(value, tuple | list) else _plain(value)


def _plain(value: Any) -> str:
    """Without the address of an object in memory."""
    text = repr(value)
    return type(value).__name__ if " object at 0x" in text else text
