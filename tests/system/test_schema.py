import pydantic
import pytest

from mopt.system.schema import Schema


class Point(Schema):
    x: float
    y: float = 0.0


def test_it_is_frozen_and_refuses_keys_that_it_does_not_know():
    point = Point(x=1)
    assert Point.model_validate_json(point.model_dump_json()) == point
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        point.x = 2
    with pytest.raises(pydantic.ValidationError, match="z"):
        Point(x=1, z=3)
