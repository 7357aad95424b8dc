import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from mopt.errors import UserError
from mopt.records import baseline as module
from mopt.records.baseline import StoredBaseline, pack_bytes, pack_rows, unpack_bytes
from tests.cli.results import stored_baseline

ROWS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4))


@settings(max_examples=30)
@given(rows=ROWS)
def test_rows_come_back_bit_for_bit_from_json(rows):
    baseline = stored_baseline().model_copy(update={"rows": {"accuracy": pack_rows(rows)}})
    again = StoredBaseline.model_validate_json(baseline.model_dump_json()).rows_of("accuracy")
    assert again.tobytes() == rows.tobytes()
    assert again.shape == rows.shape


def test_a_metric_that_was_not_kept_is_told():
    baseline = stored_baseline().model_copy(update={"rows": {"f1": pack_rows(np.ones((1, 1)))}})
    with pytest.raises(UserError, match="the baseline has no accuracy, only f1"):
        baseline.rows_of("accuracy")


@pytest.mark.parametrize(
    "text",
    ["no base64!", base64.b64encode(b"no zlib").decode(), pack_bytes(b"x" * 100)[:-8], ""],
    ids=["text", "bytes", "cut", "empty"],
)
def test_damaged_data_is_told(text):
    with pytest.raises(UserError, match="the baseline is damaged"):
        unpack_bytes(text)


def test_a_small_file_cannot_fill_the_memory(monkeypatch):
    monkeypatch.setattr(module, "_MOST_UNPACKED_BYTES", 1000)
    assert unpack_bytes(pack_bytes(b"x" * 999)) == b"x" * 999
    with pytest.raises(UserError, match="damaged"):
        unpack_bytes(base64.b64encode(zlib.compress(b"\0" * 1_000_000)).decode())


def test_times_mean_something_on_the_same_machine_alone():
    baseline = stored_baseline()
    here = baseline.machine
    assert baseline.comparable_here(here.model_copy(update={"python": "3.99", "memory_bytes": 1}))
    for change in ({"cpu": "another"}, {"cores": 64}, {"isa": ()}):
        assert not baseline.comparable_here(here.model_copy(update=change))


def test_speed_is_known_at_the_batch_sizes_that_were_measured():
    assert stored_baseline().speed_at(1).figures["p50"] == 1.0
    assert stored_baseline().speed_at(8) is None
    assert stored_baseline().record("b.json").source == "b.json"
