import pytest

from mopt.errors import UserError
from mopt.evaluators.tolerance import Tolerance


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("1%", -0.008),
        ("0.5pp", -0.005),
        ("0.5 PP", -0.005),
        ("0.005", -0.005),
        ("0", 0.0),
        (" 2 % ", -0.016),
        ("1e-3", -0.001),
    ],
)
def test_what_is_allowed_of_a_reference_of_80_percent(text: str, allowed: float) -> None:
    assert Tolerance.parse(text).allowed(0.8, "share") == pytest.approx(allowed)


@pytest.mark.parametrize("text", ["", "some", "1 %%", "-1%", "1pt", "200%", "101pp", "nan", "1e999"])
def test_what_is_no_tolerance(text: str) -> None:
    with pytest.raises(UserError, match="the tolerance") as caught:
        Tolerance.parse(text)
    assert "1%" in caught.value.hint
    assert "\n" not in caught.value.message


def test_points_are_for_shares() -> None:
    with pytest.raises(UserError, match="in pp is for shares"):
        Tolerance.parse("1pp").allowed(3.0, "unit of the labels")
