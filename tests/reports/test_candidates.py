# ruff: noqa: RUF001 the report is written in typographic signs

from mopt.errors import Rejection
from mopt.reports.build import render_html, render_markdown
from mopt.reports.candidates import COLUMNS, QUICK_NOTE, candidate_rows
from tests.manifests import manifest, trial, trials


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


def test_rejections_of_every_kind_have_a_line():
    every = tuple(
        trial(f"candidate-{kind.name}", None, None, manifest().trials[2].outcome.model_copy(update={"rejection": kind}))
        for kind in Rejection
    )
    rows = candidate_rows(manifest(trials=(*trials()[:2], *every)))
    assert {row.outcome.split(":")[0] for row in rows[2:]} == {str(kind) for kind in Rejection}
