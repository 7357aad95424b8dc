import math

import pydantic
import pytest

from mopt.records.divergence import Divergence, Estimate, GenerationCheck, GreedyDivergence, Writing

SURE = Estimate(value=0.1, low=-math.inf, high=math.inf)
WRITING = Writing(distinct_2=0.9, longest_run=0.1, compression=1.5, garbage=0.0, empty=0.0)


def test_they_survive_json_with_an_interval_that_is_everything():
    divergence = Divergence(
        tokens=10, documents=1, confidence=0.95, top=8, exact=False, kl=SURE, kl_quantiles={"0.5": 0.1}, agreement=SURE,
        shift=SURE, distance=SURE, distance_quantiles={}, coverage=0.9,
        greedy=GreedyDivergence(prompts=2, tokens=8, identical=0.5, median=3.0, positions=(None, 3)),
    )  # fmt: skip
    assert Divergence.model_validate_json(divergence.model_dump_json()) == divergence


def test_a_verdict_is_one_of_three_words():
    check = {"prompts": 1, "reason": "", "reference": WRITING, "candidate": WRITING, "broken": {"loop": (0, 1)}}
    assert GenerationCheck.model_validate(check | {"verdict": "pass"}).broken == {"loop": (0, 1)}
    with pytest.raises(pydantic.ValidationError, match="verdict"):
        GenerationCheck.model_validate(check | {"verdict": "maybe"})
