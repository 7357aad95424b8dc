# ruff: noqa: RUF001 numbers are written in typographic signs
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopt.records import units as q


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (q.milliseconds(0.0123), "12.3 µs"),
        (q.milliseconds(1.2345), "1.23 ms"),
        (q.milliseconds(999.6), "1,000 ms"),
        (q.milliseconds(12345), "12.3 s"),
        (q.seconds(0.25), "250 ms"),
        (q.seconds(12.4), "12 s"),
        (q.seconds(754), "12 min 34 s"),
        (q.memory(999), "999 bytes"),
        (q.memory(102.4e6), "102 MB"),
        (q.memory(2.4e9), "2.40 GB"),
        (q.signed(-0.0046, "accuracy"), "−0.460 pp"),
        (q.signed(0.0, "accuracy"), "±0 pp"),
        (q.signed(1.5, "rmse"), "+1.50"),
        (q.share(0.98765, "top1_agreement"), "98.77 %"),
        (q.digits(float("inf")), "∞"),
        (q.digits(3.1e-7), "3.10e−07"),
        (q.count(1, "sample"), "1 sample"),
        (q.count(1200, "sample"), "1,200 samples"),
    ],
)
def test_numbers_are_written_for_people(text, expected):
    assert text == expected


@given(st.floats(min_value=-1e300, max_value=1e300))
def test_digits_are_within_half_of_the_third_one(value):
    number = float(q.digits(value).replace("−", "-").replace(",", ""))
    assert math.isclose(number, value, rel_tol=0.0051, abs_tol=1e-320)


@pytest.mark.parametrize(
    ("metric", "share"),
    [("accuracy", True), ("top5", True), ("macro-F1", True), ("mae", False), ("cer", False), ("dice", False)],
)
def test_a_share_is_known_by_its_name(metric, share):
    assert q.is_share(metric) == share


def test_what_is_no_number_says_so():
    assert q.digits(float("nan")) == "not a number"
    assert q.digits(float("-inf")) == "−∞"
    assert (q.rate(1234.5), q.ratio(2.614), q.interval(2.5, 2.7)) == ("1,234 /s", "2.61×", "2.50 to 2.70")
    assert q.points(-0.0046, "accuracy") == "0.460 pp"
