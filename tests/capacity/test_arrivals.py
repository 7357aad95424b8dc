import numpy as np
import pytest

from mopt.capacity.arrivals import Arrivals, parse_arrivals, read_trace
from mopt.errors import UserError


def gaps(arrivals, rate=200.0, count=50_000):
    moments = arrivals.times(rate, count, np.random.default_rng(3))
    assert len(moments) == count
    assert (np.diff(moments) >= 0).all()
    return np.diff(moments)


@pytest.mark.parametrize("kind", ["poisson", "constant"])
def test_the_mean_rate_is_the_one_that_was_asked_for(kind):
    assert gaps(Arrivals(kind)).mean() == pytest.approx(5.0, rel=0.03)


def test_the_gaps_of_a_poisson_process_vary_as_much_as_their_mean():
    assert gaps(Arrivals("poisson")).std() == pytest.approx(5.0, rel=0.05)
    assert gaps(Arrivals("constant")).std() == pytest.approx(0.0, abs=1e-6)


def test_bursts_keep_the_mean_rate_and_come_in_the_share_of_time_that_was_asked_for():
    bursty = Arrivals("bursty", burst=5.0, burst_share=0.1, burst_seconds=0.5)
    moments = bursty.times(200.0, 400_000, np.random.default_rng(1))
    assert len(moments) / moments[-1] * 1e3 == pytest.approx(200.0, rel=0.1)
    counts = np.histogram(moments, bins=np.arange(0, moments[-1], 100.0))[0] * 10
    busy = counts > 500
    assert busy.mean() == pytest.approx(0.1, abs=0.03)
    assert counts[busy].mean() == pytest.approx(1000, rel=0.15)


def test_more_bursts_than_requests_are_refused():
    with pytest.raises(UserError, match="more than all requests"):
        Arrivals("bursty", burst=20.0, burst_share=0.1)


def test_a_trace_is_scaled_to_the_rate_and_repeated():
    trace = Arrivals("trace", trace=tuple(np.cumsum([1.0, 3.0] * 100)))
    moments = trace.times(100.0, 1000, np.random.default_rng(0))
    assert np.diff(moments).mean() == pytest.approx(10.0, rel=0.02)
    assert np.unique(np.diff(moments)[:50].round(6)).size == 2
    assert trace.own_rate == pytest.approx(500, rel=0.01)


def test_a_trace_is_read_in_any_order_with_and_without_a_heading(tmp_path):
    moments = np.arange(200) / 10
    for name, lines in {
        "plain.txt": [f"{value}" for value in moments[::-1]],
        "table.csv": ["time,path", *(f"{value},/predict" for value in moments)],
    }.items():
        (tmp_path / name).write_text("\n".join(lines))
        assert read_trace(tmp_path / name).trace == pytest.approx(tuple(moments * 1e3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n".join(["1", "2", "later"]), "later"),
        ("1\n2\n", "2 requests says nothing"),
        ("", "0 requests"),
        ("\n".join(["nan"] * 200), "not finite"),
    ],
)
def test_a_bad_trace_is_one_line(tmp_path, text, words):
    (tmp_path / "trace").write_text(text)
    with pytest.raises(UserError, match=words):
        read_trace(tmp_path / "trace")


def test_requests_that_all_came_at_once_have_no_rate():
    with pytest.raises(UserError, match="the same"):
        Arrivals("trace", trace=(0.0,) * 100).times(1.0, 10, np.random.default_rng(0))


def test_words_and_paths_are_told_apart(tmp_path):
    assert parse_arrivals("bursty").kind == "bursty"
    (tmp_path / "trace").write_text("\n".join(map(str, range(200))))
    assert parse_arrivals(str(tmp_path / "trace")).kind == "trace"
    with pytest.raises(UserError, match="unknown arrivals: sometimes"):
        parse_arrivals("sometimes")
