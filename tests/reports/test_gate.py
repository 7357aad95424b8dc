import re

import pytest

from mopt.records.measurement import Estimate
from mopt.records.verdict import LayerPair, WorstSample
from mopt.reports.gate import (
    COLUMNS,
    change_text,
    figure_text,
    github_commands,
    interval_text,
    render_html,
    render_markdown,
    rows,
    sentences,
    verdict_text,
)
from tests.manifests import HOSTILE
from tests.verdicts import compared, cost, gate, quality

SHOWN = cost("fail", name="memory", counts=False, limit="", allowed=None)
EXACT = cost(name="size", unit="bytes", change=Estimate(value=0.0, low=0.0, high=0.0, count=1), candidate=1e6, baseline=1e6)


def test_what_decided_comes_first_and_what_is_only_shown_last():
    made = rows(gate(SHOWN, cost(), quality("inconclusive"), cost("fail", name="p99")))
    assert [row["check"] for row in made] == ["p99", "accuracy", "p50 at batch 1", "memory"]
    assert [row["verdict"] for row in made] == ["fail", "inconclusive", "pass", "shown"]
    assert all(row.keys() == COLUMNS.keys() for row in made)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (quality("fail"), "fail"),
        (quality("fail", counts=False, kind="slice"), "(fail)"),
        (SHOWN, "shown"),
        (quality("pass"), "pass"),
    ],
)
def test_a_verdict_that_does_not_count_is_none(check, text):
    assert verdict_text(check) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.2, "ms", "4.20 ms"),
        (1e6, "bytes", "1.00 MB"),
        (100, "/s", "100 /s"),
        (0.98, "share", "98.00 %"),
        (1.5, "pixels", "1.500"),
    ],
)
def test_a_figure_has_its_unit(value, unit, text):
    assert figure_text(value, unit) == text


def test_a_change_is_a_share_points_or_the_metrics_own_unit():
    assert change_text(0.02, cost()) == "+2.0 %"
    assert change_text(-0.007, quality()) == "-0.70 pp"
    assert change_text(-0.5, quality(unit="pixels")) == "-0.5"
    assert change_text(float("inf"), cost()) == "any"


def test_a_throughput_is_said_the_way_people_read_it_with_its_ends_in_order():
    """What is compared is the time for a sample: a quarter more of it is a fifth less throughput."""
    check = cost(unit="/s", change=Estimate(value=0.25, low=0.0, high=1.0, count=9))
    assert change_text(check.change.value, check) == "-20.0 %"
    assert interval_text(check) == "-50.0 % to +0.0 %"
    assert interval_text(EXACT) == "exact"


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("pass", "PASS: new against old: as good within the tolerance, with 95% confidence."),
        ("fail", "FAIL: new against old: accuracy -6.40 pp (-7.90 pp to -5.10 pp), allowed -1pp."),
        ("inconclusive", "INCONCLUSIVE: new against old: accuracy -0.70 pp"),
    ],
)
def test_the_verdict_is_said_first_and_then_what_it_rests_on(word, start):
    first, second = sentences(gate(quality(word), cost()))
    assert first.startswith(start)
    assert second.startswith("With 1,200 samples, accuracy lets a model that is as good")
    assert "pass in 83% of gates, and refuses a loss of 1.20 pp in 90 %" in second


def test_only_the_first_of_many_failures_are_said():
    made = gate(*(cost("fail", name=f"cost {index}") for index in range(7)))
    (line,) = sentences(made)
    assert "cost 3" in line
    assert "cost 4" not in line
    assert line.endswith("; and 3 more.")


def test_samples_lost_and_gained_and_those_that_would_decide_are_noted():
    row = rows(gate(quality("inconclusive", note="by groups")))[0]
    assert row["note"] == "5 lost, 7 gained of 1,200; about 2,400 samples would decide; by groups"
    few = quality(
        "inconclusive", kind="slice", lost=None, gained=None, needed=None, change=Estimate(value=0, low=0, high=0, count=0)
    )
    assert rows(gate(few))[0]["change"] == "\N{EN DASH}"


def test_github_gets_an_annotation_for_each_check_that_did_not_pass():
    nasty = cost("fail", name="p99: a,b\n::error::injected", limit="+5%")
    commands = github_commands(
        gate(quality("inconclusive"), nasty, SHOWN, inconclusive="accept", warnings=("50 % slower\nthan",))
    )
    assert [command.split(" ")[0] for command in commands] == ["::warning", "::error", "::warning"]
    assert all("\n" not in command for command in commands)
    assert "title=mopt gate%3A p99%3A a%2Cb" in commands[1]
    assert commands[2] == "::warning title=mopt gate::50 %25 slower%0Athan"
    assert github_commands(gate(quality("inconclusive")))[0].startswith("::error ")
    assert github_commands(gate(quality())) == []


WORST = WorstSample(name="cat.png", index=3, label="cat", loss=1.0, distance=0.2, candidate="dog", baseline="cat", text="a cat")
LAYERS = (
    LayerPair(name="conv", kind="Conv", arithmetic="int8", candidate_ms=1.0, baseline_ms=2.0),
    LayerPair(name="fused", kind="Relu", arithmetic="", candidate_ms=None, baseline_ms=0.5),
)


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_the_page_and_the_summary_have_every_check_and_the_worst_samples(render):
    text = render(
        gate(quality("fail"), cost(), worst=(WORST,), layers=LAYERS, fidelity={"y.cosine": 0.99}, warnings=("a warning",))
    )
    for words in ("accuracy", "p50 at batch 1", "-6.40 pp", "cat.png", "a warning"):
        assert words in text, words


def test_the_page_shows_layers_evidence_and_both_charts():
    baseline = compared("old", machine=gate().machine)
    text = render_html(gate(quality("fail"), cost(), layers=LAYERS, paired=(-0.2, -0.1, 0.3), spread=0.02, baseline=baseline))
    assert "-50 %" in text
    assert "exact McNemar" in text
    assert "one pair of fresh processes differs from the next by 2.0 %" in text
    assert text.count("<svg") == 2
    assert '<h1 class="bad">fail</h1>' in text
    assert render_html(gate()).count("<svg") == 0


def test_hostile_names_are_only_text():
    nasty = compared(HOSTILE, digest="d" * 64)
    made = gate(quality("fail", name=HOSTILE, note=HOSTILE, limit=HOSTILE), candidate=nasty, warnings=(HOSTILE,))
    page = render_html(made)
    assert "<script" not in page
    assert not re.search(r'href="javascript', page)
    assert "\0" not in page + render_markdown(made)
