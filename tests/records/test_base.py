import datetime
import importlib
import json
import pkgutil

import pydantic
import pytest

import mopt.records
from mopt.records._base import Record, StampedRecord, stamp

MODULES = [importlib.import_module(f"mopt.records.{found.name}") for found in pkgutil.iter_modules(mopt.records.__path__)]
RECORDS = [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) and kind.__module__ == module.__name__
]


class Ratio(Record):
    value: float
    samples: tuple[float, ...] = ()


def test_every_json_that_is_written_has_one_base_and_says_what_it_is():
    assert len(RECORDS) > 30
    for kind in RECORDS:
        assert issubclass(kind, Record), kind
        assert kind.__doc__, kind
        assert kind.model_config["frozen"], kind
        assert kind.model_config["extra"] == "forbid", kind


@pytest.mark.parametrize("value", [1.5, float("inf"), float("-inf")])
def test_infinity_is_valid_json_and_comes_back(value):
    ratio = Ratio(value=value, samples=(value, 1.0))
    text = ratio.model_dump_json()
    json.loads(text, parse_constant=pytest.fail)
    assert Ratio.model_validate_json(text) == ratio


def test_a_stamp_is_now_and_this_mopt():
    stamped = StampedRecord(**stamp())
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(stamped.created)
    assert datetime.timedelta(seconds=-1) <= age < datetime.timedelta(minutes=1)
    assert stamped.mopt_version.startswith("0.")


def test_what_stands_alone_is_stamped():
    assert {kind.__name__ for kind in RECORDS if issubclass(kind, StampedRecord)} == {
        "StampedRecord", "Manifest", "GateVerdict", "Sizing", "StoredBaseline", "DriftReport", "DriftState",
        "BaseManifest", "LanguageManifest",
    }  # fmt: skip
