"""The manifest of a language model's artifact."""

import pydantic
import pytest

from mopt.records.language import LanguageManifest
from tests.language_manifests import manifest


def test_it_is_the_same_when_it_is_read_again() -> None:
    written = manifest()
    assert LanguageManifest.model_validate_json(written.model_dump_json()) == written


def test_the_chosen_one_is_among_the_trials_and_the_reference_is_the_first() -> None:
    assert manifest().winner.name == "llama_cpp-q4_k_m"
    assert manifest().reference.name == "reference"
    with pytest.raises(pydantic.ValidationError, match="not among the trials"):
        manifest(chosen="nothing")
