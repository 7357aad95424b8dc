import pydantic
import pytest

from mopt.records.quality import Quality
from tests.manifests import quality


def test_it_survives_json_with_agreement_without_noise():
    made = quality(-0.002, -0.004)
    assert made.fidelity["logits: SNR, dB"] == float("inf")
    assert Quality.model_validate_json(made.model_dump_json()) == made


def test_a_verdict_is_one_of_three_words():
    with pytest.raises(pydantic.ValidationError, match="verdict"):
        Quality.model_validate(quality(0, 0).model_dump() | {"verdict": "maybe"})
