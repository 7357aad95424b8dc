import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from mopt.reports.charts import _Point, _scatter, latency_chart, quality_chart, series, speedup, throughput_chart
from tests.manifests import hostile, manifest, quality, trial, trials

CHARTS = [latency_chart, throughput_chart, quality_chart]


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("make", [manifest, hostile])
def test_a_chart_is_well_formed_and_says_what_it_is(chart, make):
    root = ET.fromstring(chart(make()))
    assert root.tag.endswith("svg")
    assert root.get("aria-label")
    assert root.get("width") is None
    assert root.get("viewBox")


@pytest.mark.parametrize("chart", CHARTS)
def test_nothing_measured_is_no_chart(chart):
    bare = trial("onnxruntime-fp32", None, None, None)
    assert chart(manifest(chosen=bare.name, trials=(bare,))) == ""


def test_lines_are_those_measured_in_full():
    lines = series(manifest())
    assert [line.role for line in lines] == ["chosen", "reference", "other-1", "other-2", "other-3", "other-4"]
    assert "onnxruntime-int8-dynamic" not in {line.name for line in lines}


def test_every_candidate_with_both_is_labelled_accepted_or_not():
    text = quality_chart(manifest())
    plotted = [entry.name for entry in manifest().trials if entry.quality and entry.profile]
    assert len(plotted) == 7
    for name in plotted:
        assert f">{name}<" in text


def test_labels_do_not_cover_each_other():
    """Fourteen candidates in three heaps, by the boxes that a browser's usual fonts need."""
    crowd = tuple(
        trial(
            f"onnxruntime-int8-{index:02d}",
            1.2 + 0.4 * (index % 3) + 0.01 * index,
            quality(-0.001 * (index % 2), -0.003),
            None,
        )
        for index in range(14)
    )
    boxes = _boxes(quality_chart(manifest(trials=(*trials()[:2], *crowd))))
    assert len(boxes) == 16
    overlaps = [
        (one, other)
        for one, other in itertools.combinations(boxes.items(), 2)
        if one[1][0] < other[1][2] and other[1][0] < one[1][2] and one[1][1] < other[1][3] and other[1][1] < one[1][3]
    ]
    assert overlaps == []


def _boxes(svg):
    """Left, top, right and bottom of each candidate's name, at 0.55 of the font size for each character."""
    found = {}
    for style, x, y, name in re.findall(r'<text style="([^"]*)" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', svg):
        if name.startswith(("onnxruntime", "openvino")):
            size = float(re.search(r"([\d.]+)px", style)[1])
            found[name] = (float(x), float(y) - size * 0.75, float(x) + 0.55 * size * len(name), float(y) + size * 0.15)
    return found


def test_speed_is_that_of_the_interleaved_measurement_where_there_is_one():
    build = manifest()
    by_name = {entry.name: entry for entry in build.trials}
    assert speedup(by_name["onnxruntime-int8"], build, 1) == (pytest.approx(2.66, abs=0.01), True)
    assert speedup(by_name["onnxruntime-int8-dynamic"], build, 1) == (pytest.approx(0.83), False)
    assert speedup(by_name["onnxruntime-fp32"], build, 1) == (1.0, True)
    assert speedup(by_name["onnxruntime-fp16"], build, 1) is None
    assert speedup(by_name["onnxruntime-int8-dynamic"], build, 32) is None


def test_a_candidate_far_out_does_not_flatten_the_others():
    """Points within the tolerance stay apart on the page although one is a hundred tolerances below."""
    far = trial("onnxruntime-broken", 2.0, quality(-0.98, -0.99, "fail"), None)
    near = trial("openvino-good", 2.2, quality(-0.009, -0.0095), None)
    boxes = _boxes(quality_chart(manifest(trials=(*trials()[:2], near, far))))
    assert abs(boxes["openvino-good"][1] - boxes["onnxruntime-fp32"][1]) > 40


def test_a_quick_look_is_a_hollow_point():
    import matplotlib.pyplot as plt

    _, axes = plt.subplots()
    points = [_Point.of(each, manifest()) for each in trials() if each.quality is not None and each.profile is not None]
    _scatter(axes, points)
    hollow = [line.get_fillstyle() == "none" for line in axes.lines if line.get_marker() in ("o", "x", "D")]
    assert hollow == [point.quick for point in points]
    assert sum(hollow) == 1
