import dataclasses
from typing import Literal

import pytest

from mopt.errors import UserError
from mopt.system.options import check_options, fields_of_type


class Samples:
    """What mopt fills in."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    samples: Samples | None = None
    bits: int = 8
    share: float = 0.5
    names: tuple[str, ...] = ()
    mode: Literal["fast", "small"] = "fast"
    made: int = dataclasses.field(default=0, init=False)


def check(**options):
    return check_options(Step, options, "the pass step", Samples)


def test_values_are_those_that_the_fields_take():
    checked = check(bits=4, share=1, names=["a", "b"], mode="small")
    assert Step(**checked) == Step(bits=4, share=1.0, names=("a", "b"), mode="small")
    assert isinstance(checked["share"], float)
    assert check() == {}


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"bitz": 4}, "the pass step has no option bitz", "did you mean bits?"),
        ({"made": 1}, "has no option made", "mode"),
        ({"bits": "4"}, "the pass step: bits: Input should be a valid integer (given: '4')", "bits, share, names, mode"),
        ({"bits": 4.5}, "bits:", "its options"),
        ({"bits": True}, "bits:", "its options"),
        ({"names": "a"}, "names:", "its options"),
        ({"mode": "slow"}, "mode: Input should be 'fast' or 'small'", "its options"),
        ({"samples": "x"}, "samples is filled in by mopt", "leave it out"),
    ],
)
def test_nothing_is_converted_that_is_something_else(options, message, hint):
    with pytest.raises(UserError) as caught:
        check(**options)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_fields_that_hold_a_type_or_may_are_found():
    assert fields_of_type(Step, Samples) == ["samples"]
    assert fields_of_type(Step, int) == ["bits", "made"]


def test_what_has_no_options_says_so():
    @dataclasses.dataclass
    class Bare:
        pass

    with pytest.raises(UserError) as caught:
        check_options(Bare, {"a": 1}, "the pass bare")
    assert caught.value.hint == "it has no options"
