import pytest

from mopt.records.sizing import Autoscaling, Curve, GpuVerdict
from mopt.reports.sizing import COLUMNS, facts, render_sizing, rows, sentences
from tests.manifests import HOSTILE
from tests.sizings import option, sizing

CURVES = tuple(
    Curve(name=f"machine {role}", role=role, rates=(62.5, 1000.0, 16000.0), values=(100.0, 300.0, 4000.0))
    for role in ("chosen", "cpu", "gpu")
)
P99 = (Curve(name="3 x here", role="chosen", rates=(100.0, 400.0), values=(20.0, 90.0), low=(10.0, 40.0), high=(30.0, 200.0)),)


def test_the_recommended_comes_first_then_from_cheap_to_dear_then_what_is_excluded():
    options = [option("dear", 900), option("out", 100, excluded="too slow"), option("chosen", 300), option("cheap", 200)]
    made = rows(sizing(*options, recommended=2))
    assert [row["target"] for row in made] == ["chosen", "cheap", "dear", "out"]
    assert [row["state"] for row in made] == ["chosen", "", "", "rejected"]
    assert [row["note"] for row in made] == ["recommended: the p99", "the p99", "the p99", "too slow"]
    assert all(row.keys() >= COLUMNS.keys() for row in made)


def test_what_was_measured_is_a_figure_and_an_estimate_has_a_range():
    measured, estimate = rows(sizing(option(), option("other", 500, spread=0.2)))
    assert (measured["origin"], measured["p99"], measured["monthly"]) == ("measured", "40.0 ms", "$300")
    assert (estimate["origin"], estimate["p99"], estimate["monthly"]) == (
        "estimate",
        "40.0 ms (32.0 to 48.0 ms)",
        "$500 ($400 to $600)",
    )
    assert measured["settings"] == "2 x 1, batch 8, delay 0.500 ms"


def test_what_is_not_known_is_a_dash():
    bare = option(
        "bare", None, instances=None, threads=None, max_batch=None, replicas=None, p99_ms=None, utilization=None,
        memory_bytes=None, excluded="nothing holds",
    )  # fmt: skip
    (row,) = rows(sizing(bare, recommended=None))
    dashes = {name for name, text in row.items() if text == "\N{EN DASH}"}
    assert sentences(sizing(bare, recommended=None))[-1] == "No answer for onnxruntime-int8 on bare: nothing holds."
    assert dashes == {"replicas", "settings", "p99", "utilization", "memory", "monthly", "million", "energy"}


def test_the_answer_is_said_in_sentences():
    scaling = Autoscaling(
        metric="requests per second of a replica",
        threshold=400,
        unit="requests/s",
        minimum=2,
        start_seconds=2.0,
        why="it is so",
    )
    lines = sentences(sizing(option(), autoscaling=scaling, warnings=("the profile is old",)))
    assert lines[0] == (
        "Recommended: 3 x here, 1 of them spare, with onnxruntime-int8, batches up to 8, 2 instances of 1 thread, $300 a month."
    )
    assert lines[-1] == "Note: the profile is old."
    assert any(line.startswith("Autoscaling: at least 2, one more from 400 requests/s each") for line in lines)
    assert any("was not measured" in line for line in sentences(sizing(option(spread=0.2))))
    assert sentences(sizing())[0] == "No recommendation: nothing holds it."


def test_what_was_asked_is_among_the_facts():
    asked = {fact.name: fact.value for fact in facts(sizing(budget_usd=500.0, p99_ms=None))}
    assert asked["peak rate"] == "1,000 requests per second, Poisson arrivals"
    assert asked["limit for the p99"] == "none"
    assert asked["budget"] == "$500 a month"


@pytest.mark.parametrize(("cost", "p99", "charts"), [((), (), 0), (CURVES, (), 1), (CURVES, P99, 2)])
def test_the_page_has_the_charts_that_there_are(cost, p99, charts):
    gpu = GpuVerdict(answer="CPU", sentence="A GPU costs more.", pays_from=4000.0, gpu="nvidia-l4")
    page = render_sizing(sizing(option(), cost=cost, p99=p99, gpu=gpu))
    assert page.count("<svg") == charts
    assert "A GPU costs more." in page


def test_hostile_names_are_only_text():
    page = render_sizing(sizing(option(HOSTILE, limited_by=HOSTILE, description=HOSTILE), name=HOSTILE, warnings=(HOSTILE,)))
    assert "<script" not in page
