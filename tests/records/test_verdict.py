import itertools

import pytest

from mopt.records.verdict import GateVerdict, overall
from tests.verdicts import cost, gate, quality


@pytest.mark.parametrize("words", [*itertools.product(("pass", "fail", "inconclusive"), repeat=2)])
def test_one_failure_fails_and_else_one_open_question_leaves_it_open(words):
    expected = next((word for word in ("fail", "inconclusive") if word in words), "pass")
    assert overall([quality(words[0]), cost(words[1])]) == expected


def test_what_does_not_count_decides_nothing():
    shown = cost("fail", counts=False)
    assert overall([quality(), shown]) == "pass"
    assert overall([]) == "pass"
    assert gate(quality("inconclusive"), shown).of("fail") == []


@pytest.mark.parametrize(
    ("word", "inconclusive", "ok"),
    [("pass", "reject", True), ("fail", "accept", False), ("inconclusive", "accept", True), ("inconclusive", "reject", False)],
)
def test_an_open_gate_passes_where_that_is_accepted(word, inconclusive, ok):
    made = gate(quality(word), cost(), inconclusive=inconclusive)
    assert made.ok == ok
    assert [check.name for check in made.of(word)] == (["accuracy", "p50 at batch 1"] if word == "pass" else ["accuracy"])
    assert GateVerdict.model_validate_json(made.model_dump_json()) == made
