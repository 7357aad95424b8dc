import pytest

from mopt.cli._recipes import gate_section, given, parse_batch_sizes
from mopt.errors import UserError

NOTHING = {"metric": None, "limits": (), "slices": None, "slice_tolerances": ()}


def test_only_what_was_given_is_kept():
    assert given(a=None, b=[], c={}, d=0, e=False, f="", g="x") == {"d": 0, "e": False, "f": "", "g": "x"}
    assert gate_section(**NOTHING) == {}


def test_batch_sizes_are_numbers():
    assert parse_batch_sizes(None) is None
    assert parse_batch_sizes("1, 8") == [1, 8]
    with pytest.raises(UserError, match="--batch-sizes is '1,eight'"):
        parse_batch_sizes("1,eight")


def test_limits_and_tolerances_of_slices_become_the_section_of_a_recipe():
    values = {"metric": "mine.py:f", "limits": ["p99: +5%", "mine.py:f: 1%"], "slices": ["language"]}
    section = gate_section(**values, slice_tolerances=["2%", "language=de: 5%", "time=12:30: 4%"], confidence=0.9)
    assert section == {
        "limits": {"p99": "+5%", "mine.py:f": "1%"},
        "slices": ["language"],
        "slice_tolerance": "2%",
        "slice_tolerances": {"language=de": "5%", "time=12:30": "4%"},
        "confidence": 0.9,
    }
    with pytest.raises(UserError, match="nothing is called p9") as caught:
        gate_section(**NOTHING | {"limits": ["p9: 1%"]})
    assert "p99" in caught.value.hint
