import itertools

from mopt.search.effort import EFFORTS


def test_more_effort_is_never_less_of_anything():
    assert list(EFFORTS) == ["quick", "standard", "thorough"]
    for less, more in itertools.pairwise(EFFORTS.values()):
        for name, value in vars(less).items():
            assert value <= getattr(more, name), name
