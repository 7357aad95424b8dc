"""Look after look: what is counted, what is found, and what is said of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.signature import Signature
from mopt.records.drift import DriftState
from mopt.sketches.compare import compare, look, new_state, threshold
from mopt.sketches.features import Extractor, FeatureKey
from mopt.sketches.sketch import make_sketch

EXTRACTOR = Extractor(Signature(inputs=(), outputs=()))
AGE, WAGE = FeatureKey("input", "table", "value[0]"), FeatureKey("input", "table", "value[1]")
CLASS = FeatureKey("output", "scores", "predicted class")


def people(count, seed, *, age=0.0, favourite=0.3):
    random = np.random.default_rng(seed)
    inputs = [{AGE: 40 + age + 10 * random.standard_normal(), WAGE: random.gamma(2.0)} for _ in range(count)]
    outputs = [{CLASS: float(random.choice(3, p=[favourite, 0.9 - favourite, 0.1]))} for _ in range(count)]
    return inputs, outputs


def rows(count, seed, **changes):
    return [one | other for one, other in zip(*people(count, seed, **changes), strict=True)]


SKETCH = make_sketch(EXTRACTOR, *people(400, 0))


def looked(*batches, confidence=0.99):
    state = new_state("m", "d" * 64, SKETCH)
    for index, batch in enumerate(batches):
        state = look(state, SKETCH, batch, f"{index:064x}", confidence)
    return state, compare(SKETCH, state, confidence)


def test_requests_like_the_samples_are_no_drift():
    state, report = looked(*(rows(50, seed) for seed in range(1, 9)))
    assert not report.found
    assert (report.looks, report.requests, state.looks) == (8, 400, 8)
    assert all(feature.evidence < 1 and feature.psi < 0.1 for feature in report.features)


def test_what_moved_is_named_with_how_far_and_nothing_else_is():
    _, report = looked(rows(50, 1), rows(50, 2, age=15))
    assert [feature.name for feature in report.drifted] == ["value[0]"]
    moved = report.drifted[0]
    assert (moved.requests, moved.samples) == (50, 400)
    assert (moved.since, moved.found_at) == (2, 2), "the first look was as usual, and is left out of the figures"
    assert moved.found_on <= report.created
    assert moved.mean - moved.usual_mean == pytest.approx(15, abs=4.5)
    assert moved.shift == pytest.approx(1.5, abs=0.45)
    assert moved.psi > 0.25
    assert report.features[0] == moved, "what has the most evidence comes first"


def test_a_class_that_is_predicted_more_often_is_named():
    _, report = looked(rows(300, 3, favourite=0.6))
    assert [feature.tensor for feature in report.drifted] == ["scores"]
    before, now = report.drifted[0].categories["0"]
    assert (before, now) == (pytest.approx(0.3, abs=0.08), pytest.approx(0.6, abs=0.08))


def test_many_small_looks_add_up_to_what_one_of_them_does_not_show():
    small = [rows(10, seed, age=6) for seed in range(20)]
    assert not looked(small[0])[1].found
    state, report = looked(*small)
    assert report.found
    again, _ = looked(*small)
    drop = {"created", "found_on"}
    assert state.features[0].model_dump(exclude=drop) == again.features[0].model_dump(exclude=drop)


def test_what_was_found_stays_found_with_the_look_that_found_it():
    state, _ = looked(rows(100, 1, age=20))
    for seed in range(20, 24):
        state = look(state, SKETCH, rows(400, seed), f"{seed:064x}", 0.99)
    drifted = compare(SKETCH, state, 0.99).drifted
    assert [feature.found_at for feature in drifted] == [1]


def test_a_state_survives_the_disk_between_two_looks():
    straight, _ = looked(rows(30, 1), rows(30, 2))
    first, _ = looked(rows(30, 1))
    second = look(DriftState.model_validate_json(first.model_dump_json()), SKETCH, rows(30, 2), f"{1:064x}", 0.99)
    drop = {"created", "files"}
    assert second.model_dump(exclude=drop) == straight.model_dump(exclude=drop)
    assert second.model_dump_json().count("value[0]") == 1


def test_the_error_is_split_among_tensors_and_then_among_their_numbers():
    limits = [threshold(SKETCH, feature, 0.99) for feature in SKETCH.features]
    assert limits == pytest.approx([math.log(2 * 2 / 0.01), math.log(2 * 2 / 0.01), math.log(2 / 0.01)])
    assert sum(math.exp(-limit) for limit in limits) == pytest.approx(0.01)


def test_no_request_counts_twice_and_none_is_no_look():
    state, _ = looked(rows(10, 1))
    with pytest.raises(UserError, match="counted before"):
        look(state, SKETCH, rows(10, 1), f"{0:064x}", 0.99)
    with pytest.raises(UserError, match="no requests"):
        look(state, SKETCH, [], f"{5:064x}", 0.99)


def test_what_lies_beyond_all_samples_or_is_no_number_is_counted():
    broken = [{AGE: 1000.0, WAGE: math.nan}] * 8 + rows(2, 1)
    _, report = looked(broken)
    beyond = {feature.name: feature.beyond for feature in report.features}
    assert beyond["value[0]"] == beyond["value[1]"] == 0.8
    assert {feature.name for feature in report.drifted} == {"value[0]", "value[1]"}
    assert all(feature.role == "input" for feature in report.drifted)


def test_outputs_that_were_not_captured_are_no_part_of_the_report():
    _, report = looked(people(50, 1)[0])
    assert {feature.role for feature in report.features} == {"input"}


def test_what_never_varied_and_now_does_is_infinitely_far():
    sketch = make_sketch(EXTRACTOR, [{AGE: 1.0}] * 50, [])
    state = look(new_state("m", "d", sketch), sketch, [{AGE: 2.0}] * 20, "0" * 64, 0.99)
    report = compare(sketch, state, 0.99)
    assert report.drifted[0].shift == math.inf
    report.model_validate_json(report.model_dump_json())
