# ruff: noqa: RUF001 the report is written in typographic signs
import re
from html.parser import HTMLParser

import pytest

from mopt.errors import Rejection
from mopt.records.trial import Outcome, PassRecord
from mopt.reports.build import COLUMNS, QUICK_NOTE, candidate_rows, quality_sentence, render_html, render_markdown, verdict
from tests.manifests import HOSTILE, estimate, hostile, manifest, profile, quality, trial, trials


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


def test_the_verdict_has_both_ends_of_the_batch_sizes_and_the_bound():
    text = " ".join(verdict(manifest()))
    assert "2.66× (2.62 to 2.70) at batch 1" in text
    assert "2.91× (2.86 to 2.95) at batch 32" in text
    assert "98.22 % against 98.42 %" in text
    assert "no lower than −0.460 pp" in text
    assert text.endswith("pass the gate.")


def test_an_inconclusive_verdict_says_what_the_samples_cannot_exclude():
    text = quality_sentence(quality(-0.002, -0.041, "inconclusive", count=60))
    assert "within the tolerance" in text
    assert "60 samples can only exclude a drop larger than 4.10 pp" in text
    assert "About 900 samples would decide" in text


def test_a_failed_verdict_says_worse():
    assert "worse than the tolerance admits" in quality_sentence(quality(-0.06, -0.07, "fail"))


def test_other_metrics_keep_their_own_units():
    text = quality_sentence(quality(-0.5, -0.7).model_copy(update={"metric": "perplexity", "value": 12.5}))
    assert "12.50" in text
    assert "pp" not in text
    assert "%" not in text.replace("95 %", "")


def test_rows_begin_with_the_chosen_and_the_reference_and_end_with_the_unmeasured():
    rows = candidate_rows(manifest())
    assert [row.state for row in rows] == ["chosen", "reference"] + ["rejected"] * 10
    assert rows[2].name == "onnxruntime-int8-minmax"
    assert {row.latency for row in rows[7:]} == {"–"}
    assert list(rows[0].cells) == list(COLUMNS)
    assert rows[0].cells["size"] == "39.2 MB"


def test_a_quick_look_is_marked_as_such():
    (row,) = [row for row in candidate_rows(manifest()) if row.name == "onnxruntime-int8-dynamic"]
    assert row.speedup == "~0.83×"
    assert (row.latency, row.throughput) == ("–", "–")
    assert QUICK_NOTE in render_html(manifest())
    assert QUICK_NOTE[2:] in render_markdown(manifest())  # the tilde is escaped


def test_a_reference_that_wins_is_told_as_such():
    only = manifest(chosen="onnxruntime-fp32", trials=(trials()[0], *trials()[7:]))
    assert candidate_rows(only)[0].outcome == "chosen: the reference itself"
    assert "the artifact is the reference itself" in verdict(only)[0]
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


def test_rejections_of_every_kind_have_a_line():
    every = tuple(
        trial(f"candidate-{kind.name}", None, None, manifest().trials[2].outcome.model_copy(update={"rejection": kind}))
        for kind in Rejection
    )
    rows = candidate_rows(manifest(trials=(*trials()[:2], *every)))
    assert {row.outcome.split(":")[0] for row in rows[2:]} == {str(kind) for kind in Rejection}


def test_the_control_is_told_with_its_interval():
    assert "1.12× (1.09 to 1.15)" in render_html(manifest(control=estimate(1.12, 0.03)))
    assert "noise control" not in render_html(manifest(control=None))


def test_a_single_batch_size_has_one_tile():
    one = trial("onnxruntime-int8", 2.0, quality(0, 0), None, profile=profile(4.2, 2.0, (1,)))
    text = render_markdown(manifest(trials=(trials()[0], one)))
    assert text.count("Speed-up, batch") == 1


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
