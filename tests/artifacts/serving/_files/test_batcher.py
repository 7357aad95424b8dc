"""The policy, and what one request may do to the others."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from mopt.artifacts.serving._files.batcher import Batcher, ClosedError, OverloadedError

WAIT_S = 10.0


class Doubling:
    """Doubles numbers, a batch at a time, and only while it may."""

    batches = True

    def __init__(self, max_batch=4, delay_us=0):
        self.max_batch = max_batch
        self.settings = {"queue_delay_us": delay_us}
        self.ran = []
        self.may = threading.Event()
        self.may.set()
        self.under_way = threading.Event()

    def check(self, feed):
        if not isinstance(feed["x"], int | list):
            raise ValueError("no number")

    def samples(self, feed):
        return len(feed["x"]) if isinstance(feed["x"], list) else 1

    def run_batch(self, feeds):
        self.under_way.set()
        assert self.may.wait(WAIT_S)
        values = [feed["x"] for feed in feeds]
        self.ran.append(values)
        if 13 in values:
            raise RuntimeError("13 brings bad luck")
        return [{"y": 2 * value} for value in values]


@pytest.fixture
def serve():
    opened = []

    def start(*models, **options):
        opened.append((Batcher(models, **options), models))
        return opened[-1][0]

    yield start
    for batcher, models in opened:
        for model in models:
            model.may.set()
        batcher.close()


def held(batcher, model):
    """Keep the only worker busy with one request, so that others wait."""
    model.may.clear()
    first = batcher.submit({"x": 0})
    assert model.under_way.wait(WAIT_S)
    return first


def test_all_that_waits_is_taken_at_once_up_to_the_largest_batch_in_order(serve):
    model = Doubling(max_batch=4)
    batcher = serve(model)
    first = held(batcher, model)
    futures = [batcher.submit({"x": value}) for value in range(1, 7)]
    model.may.set()
    assert [future.result(WAIT_S)["y"] for future in [first, *futures]] == [0, 2, 4, 6, 8, 10, 12]
    assert model.ran == [[0], [1, 2, 3, 4], [5, 6]]


def test_of_each_request_that_runs_it_is_told_how_long_it_has_waited(serve):
    model, waits = Doubling(max_batch=4), []
    batcher = serve(model, waited=waits.append)
    first = held(batcher, model)
    futures = [batcher.submit({"x": value}) for value in (1, 13, 2)]
    time.sleep(0.05)
    model.may.set()
    assert [first.result(WAIT_S)["y"], futures[0].result(WAIT_S)["y"], futures[2].result(WAIT_S)["y"]] == [0, 2, 4]
    assert len(waits) == 4, "a batch that fails is run again, and no request has waited twice"
    assert min(waits[1:]) >= 0.05
    assert waits[0] < WAIT_S


def test_a_lone_request_does_not_wait_without_a_delay(serve):
    assert serve(Doubling()).submit({"x": 5}).result(WAIT_S) == {"y": 10}


def test_a_request_that_is_a_batch_counts_as_its_samples(serve):
    model = Doubling(max_batch=4)
    batcher = serve(model)
    held(batcher, model)
    futures = [batcher.submit({"x": value}) for value in ([1, 1, 1], [2, 2], [3], 4)]
    model.may.set()
    assert [future.result(WAIT_S)["y"] for future in futures] == [[1, 1, 1] * 2, [2, 2] * 2, [3, 3], 8]
    assert model.ran[1:] == [[[1, 1, 1]], [[2, 2], [3], 4]]


def test_the_oldest_waits_for_company_no_longer_than_the_delay(serve):
    model = Doubling(max_batch=4, delay_us=200_000)
    batcher = serve(model)
    start = time.monotonic()
    futures = [batcher.submit({"x": 1}), batcher.submit({"x": 2})]
    assert futures[0].result(WAIT_S) == {"y": 2}
    assert time.monotonic() - start >= 0.2
    assert model.ran == [[1, 2]]


def test_a_full_batch_does_not_wait_for_the_delay(serve):
    model = Doubling(max_batch=2, delay_us=int(3600e6))
    batcher = serve(model)
    futures = [batcher.submit({"x": value}) for value in (1, 2, 3, 4)]
    assert [future.result(WAIT_S)["y"] for future in futures] == [2, 4, 6, 8]


def test_models_that_do_not_batch_get_one_request_at_a_time(serve):
    model = Doubling(max_batch=4)
    model.batches = False
    batcher = serve(model)
    held(batcher, model)
    futures = [batcher.submit({"x": value}) for value in (1, 2)]
    model.may.set()
    assert [future.result(WAIT_S)["y"] for future in futures] == [2, 4]
    assert model.ran == [[0], [1], [2]]


def test_each_worker_has_its_model_and_they_work_side_by_side(serve):
    models = [Doubling(max_batch=1), Doubling(max_batch=1)]
    for model in models:
        model.may.clear()
    batcher = serve(*models)
    futures = [batcher.submit({"x": value}) for value in (1, 2)]
    assert all(model.under_way.wait(WAIT_S) for model in models)
    for model in models:
        model.may.set()
    assert [future.result(WAIT_S)["y"] for future in futures] == [2, 4]


def test_a_request_that_does_not_fit_is_refused_and_the_others_are_answered(serve):
    batcher = serve(Doubling())
    with pytest.raises(ValueError, match="no number"):
        batcher.submit({"x": "one"})
    assert batcher.submit({"x": 1}).result(WAIT_S) == {"y": 2}


def test_a_request_that_fails_in_a_batch_fails_alone(serve):
    model = Doubling(max_batch=4)
    batcher = serve(model)
    held(batcher, model)
    good, bad, other = (batcher.submit({"x": value}) for value in (1, 13, 2))
    model.may.set()
    assert good.result(WAIT_S) == {"y": 2}
    assert other.result(WAIT_S) == {"y": 4}
    with pytest.raises(RuntimeError, match="bad luck"):
        bad.result(WAIT_S)
    assert batcher.submit({"x": 3}).result(WAIT_S) == {"y": 6}


def test_too_many_are_turned_away_and_those_that_wait_are_answered(serve):
    model = Doubling(max_batch=1)
    batcher = serve(model, most_waiting=2)
    held(batcher, model)
    futures = [batcher.submit({"x": value}) for value in (1, 2)]
    with pytest.raises(OverloadedError, match="2 samples wait already"):
        batcher.submit({"x": 3})
    model.may.set()
    assert [future.result(WAIT_S)["y"] for future in futures] == [2, 4]
    assert batcher.submit({"x": 3}).result(WAIT_S) == {"y": 6}


def test_who_has_gone_is_not_computed(serve):
    model = Doubling(max_batch=4)
    batcher = serve(model)
    held(batcher, model)
    gone, stays = batcher.submit({"x": 1}), batcher.submit({"x": 2})
    assert gone.cancel()
    model.may.set()
    assert stays.result(WAIT_S) == {"y": 4}
    assert model.ran == [[0], [2]]


def test_closing_answers_what_waits_and_takes_no_more(serve):
    model = Doubling(max_batch=1, delay_us=int(3600e6))
    batcher = serve(model)
    held(batcher, model)
    waiting = [batcher.submit({"x": value}) for value in (1, 2)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.may.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert [future.result(0)["y"] for future in waiting] == [2, 4]
    with pytest.raises(ClosedError):
        batcher.submit({"x": 3})


def test_an_event_loop_waits_for_one_and_for_several(serve):
    batcher = serve(Doubling())

    async def ask():
        return await batcher.infer({"x": 1}), await batcher.infer_all([{"x": 2}, {"x": 3}])

    assert asyncio.run(ask()) == ({"y": 2}, [{"y": 4}, {"y": 6}])


def test_of_several_that_came_as_one_none_is_left_behind_when_one_does_not_fit(serve):
    model = Doubling(max_batch=1)
    batcher = serve(model)
    held(batcher, model)
    with pytest.raises(ValueError, match="no number"):
        asyncio.run(batcher.infer_all([{"x": 1}, {"x": "two"}]))
    model.may.set()
    assert batcher.submit({"x": 3}).result(WAIT_S) == {"y": 6}
    assert [1] not in model.ran
