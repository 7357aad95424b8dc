# ruff: noqa: RUF001 the report is written in typographic signs
import re
from html.parser import HTMLParser

import pytest

from mopt.errors import Rejection
from mopt.records.trial import Outcome, PassRecord
from mopt.reports.build import render_html, render_markdown
from mopt.reports.candidates import COLUMNS, candidate_rows
from mopt.reports.verdict import verdict
from tests.manifests import HOSTILE, estimate, hostile, manifest, quality, trial, trials


class Page(HTMLParser):
    """Collects the elements, the attributes and the text of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, name, value or "") for name, value in attrs)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("make", [manifest, hostile])
def test_the_page_runs_nothing_and_loads_nothing(make):
    page = Page(render_html(make()))
    assert {"script", "iframe", "object", "embed", "link", "img", "base", "form", "a"}.isdisjoint(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "clip-path"):
            assert value.startswith(("#", "url(#")), (tag, name, value)
    assert "@import" not in render_html(make())
    assert re.findall(r"url\((?!#)", render_html(make())) == []


def test_hostile_names_are_only_text():
    shown = re.sub(r"[\x00\n]+", "\N{REPLACEMENT CHARACTER} ", HOSTILE)
    page = Page(render_html(hostile()))
    assert "".join(shown.split()) in "".join(page.text.split())
    assert page.tags.count("h1") == 1


def test_hostile_names_are_only_text_in_markdown():
    text = render_markdown(hostile())
    prose = text[: text.index("## Build it again")]
    assert re.findall(r"(?<!\\)<", prose) == []
    assert re.findall(r"(?<!\\)`", prose) == []
    assert re.findall(r"(?<!\\)\[", prose) == []
    rows = [line for line in prose.splitlines() if "alert" in line and line.startswith("| ")]
    pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert pipes <= {len(COLUMNS) + 1, 6}
    assert "\x00" not in text


def test_a_command_cannot_end_its_own_block():
    text = render_markdown(hostile())
    fences = re.findall(r"^`{3,}$", text, flags=re.MULTILINE)
    assert len(fences) == 2
    assert len(fences[0]) > len(max(re.findall(r"`+", hostile().command), key=len))


@pytest.mark.parametrize("render", [render_markdown, render_html])
def test_every_reason_and_every_candidate_is_told(render):
    text = render(manifest()).replace("&#39;", "'")
    for entry in manifest().trials:
        assert entry.name in text
        if entry.outcome is not None:
            assert str(entry.outcome.rejection) in text
            assert entry.outcome.reason in text


@pytest.mark.parametrize("render", [render_markdown, render_html])
def test_what_must_not_be_deployed_says_so_first(render):
    text = render(manifest(deployable=False, not_deployable_because="It was calibrated on random data."))
    assert text.index("NOT DEPLOYABLE") < text.index("was chosen")
    assert "It was calibrated on random data." in text
    assert "NOT DEPLOYABLE" not in render(manifest())


@pytest.mark.parametrize("render", [render_markdown, render_html])
def test_it_says_how_to_build_it_again_and_what_it_was_built_with(render):
    text = render(manifest())
    for words in (
        manifest().command,
        "1.22.0",
        "AMD EPYC 7763",
        "1.00×",
        "photos/",
        "quantize_static",
        "QLinearConv 53",
    ):
        assert words in text


def test_a_reference_that_wins_is_told_as_such():
    only = manifest(chosen="onnxruntime-fp32", trials=(trials()[0], *trials()[7:]))
    assert candidate_rows(only)[0].outcome == "chosen: the reference itself"
    assert "The artifact is the reference itself" in verdict(only)[0]
    assert "Speed-up, batch" not in render_html(only)


def test_a_build_that_measured_nothing_still_has_a_report():
    bare = trial("onnxruntime-fp32", None, None, None, passes=(), evidence={}, size_bytes=None)
    page = Page(render_html(manifest(chosen="onnxruntime-fp32", trials=(bare,), control=None)))
    assert "svg" not in page.tags
    assert "Nothing: it is the exported model." in page.text


def test_equal_manifests_give_equal_pages():
    assert render_html(manifest()) == render_html(manifest())


def test_every_colour_of_a_chart_is_one_of_the_page():
    page = render_html(manifest())
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        assert set(re.findall(r"#[0-9a-f]{6}\b", chart)) == set()
        for name in set(re.findall(r"var\((--[a-z0-9-]+)\)", chart)):
            assert page.count(f"{name}:") == 3  # light, dark and print


def test_names_inside_the_charts_do_not_collide():
    names = re.findall(r'\bid="([^"]+)"', render_html(manifest()))
    assert len(names) == len(set(names)) > 30


def test_the_control_is_told_with_its_interval():
    assert "1.12× (1.09 to 1.15)" in render_html(manifest(control=estimate(1.12, 0.03)))
    assert "noise control" not in render_html(manifest(control=None))


@pytest.mark.parametrize("render", [render_markdown, render_html])
def test_the_frontier_of_mixed_precision_names_what_stayed_in_float(render):
    def mixed(count, difference, verdict, outcome):
        fields = {"float_nodes": [f"layer{index}" for index in range(count)]}
        step = PassRecord(name="quantize_int8_static", fields=fields, modified=True, cached=False, seconds=3.0)
        judged = quality(difference, difference - 0.002, verdict)
        return trial(f"openvino-int8-mixed{count}", 2.5 - count / 10, judged, outcome, passes=(step,))

    worse = Outcome(rejection=Rejection.WORSE, reason="accuracy -0.03, allowed -0.01")
    found = manifest(trials=(*trials(), mixed(2, -0.03, "fail", worse), mixed(4, -0.004, "pass", None)))
    text = render(found)
    section = text[text.index("Mixed precision") :]
    places = [section.index(name) for name in ("openvino-int8-mixed2", "openvino-int8-mixed4")]
    assert places == sorted(places)
    assert section.index("openvino-int8") < places[0]
    assert "layer0, layer1, layer2, layer3" in section
    assert "Mixed precision" not in render(manifest())
