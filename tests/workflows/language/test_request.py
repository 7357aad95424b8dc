"""What is refused before any work, and what follows from a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopt.errors import MissingEnvironmentError, UserError
from mopt.recipe import make_recipe
from mopt.workflows.language._request import check_language_recipe, objective_of
from tests.language_models import TinyModel


def _recipe(model: Path, **changes: object):
    return make_recipe({"model": str(model), "data": "texts"} | changes)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return TinyModel().write(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "throughput"}, "throughput is not searched for"),
        ({"metric": "accuracy"}, "the metric accuracy is not for language models"),
        ({"language": {"context": 100_000}}, "has 256 positions"),
        ({"serve": ["triton"]}, "unknown serving system of language models: triton"),
        ({"target": "nvidia-l4"}, "not built for nvidia-l4"),
        ({"tolerance": "a lot"}, "no amount"),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(model: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_language_recipe(_recipe(model, **changes), model)


def test_without_the_environment_of_the_reference_the_line_that_installs_it_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "none"))
    with pytest.raises(MissingEnvironmentError) as caught:
        check_language_recipe(_recipe(model), model)
    assert caught.value.hint == "mopt tools install llm_compressor"


def test_latency_is_decode(model: Path) -> None:
    assert objective_of(_recipe(model)) == "decode"
    assert objective_of(_recipe(model, objective="prefill")) == "prefill"
