import pytest

from mopt.errors import UserError
from mopt.evaluators.limit import Limit, parse_assignment


@pytest.mark.parametrize(
    ("text", "cost", "baseline", "allowed"),
    [
        ("+5%", "p99", 20.0, 0.05),
        ("5%", "p99", 20.0, 0.05),
        ("-5%", "p99", 20.0, -0.05),
        ("+2ms", "p99", 20.0, 0.1),
        ("500us", "p50", 1.0, 0.5),
        ("0", "size", 100.0, 0.0),
        ("+50MB", "memory", 100e6, 0.5),
        ("-5%", "throughput", 100.0, 0.05),
        ("-10/s", "throughput", 100.0, 0.1),
    ],
)
def test_a_limit_is_a_share_of_the_baseline(text, cost, baseline, allowed):
    assert Limit.parse(text, cost).allowed(baseline) == pytest.approx(allowed)


@pytest.mark.parametrize(("text", "cost"), [("fast", "p99"), ("5", "p99"), ("5MB", "p99"), ("1ms", "size"), ("", "size")])
def test_nonsense_is_refused(text, cost):
    with pytest.raises(UserError, match=f"the limit {cost}"):
        Limit.parse(text, cost)


@pytest.mark.parametrize("text", ["p99: +5%", "p99=+5%", " p99 :+5% "])
def test_an_assignment_is_split(text):
    assert parse_assignment(text, ["p99"]) == ("p99", "+5%")


def test_a_metric_of_the_user_has_a_mark_in_its_name():
    assert parse_assignment("mine.py:f: 1%", ["p99", "mine.py:f"]) == ("mine.py:f", "1%")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError) as caught:
        parse_assignment("p98: 1%", ["p99", "size"])
    assert "p99" in caught.value.hint
