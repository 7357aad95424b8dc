import math

from mopt.reports.drift import COLUMNS, rows, summary
from tests.sketches.test_exposition import report


def test_a_row_has_a_cell_for_each_column_and_what_drifted_comes_whole():
    assert all(len(row) == len(COLUMNS) for row in rows(report(), 0))
    assert rows(report(), 0)[0][-1] == "DRIFT, look 2"
    assert rows(report(found=False), 0) == []
    assert rows(report(found=False), 1)[0][-1] == ""


def test_what_drifted_is_told_in_the_fields_terms():
    line = summary(report(shift=1.0, categories={"7": (0.1, 0.4)}))[0]
    assert "value[3]: 1.00 in the samples, 2.00 in the requests (+1.00 standard deviations)" in line
    assert "PSI 0.50, large; 10.0 % beyond every sample; 7 10.0 % to 40.0 %" in line
    assert "since look" not in line
    assert "since look 5" in summary(report(since=5))[0]
    assert "standard deviations" not in summary(report(shift=math.inf))[0]


def test_of_many_numbers_of_a_tensor_three_are_told():
    one = report().features[0]
    many = report().model_copy(update={"features": (one,) * 9})
    lines = summary(many)
    assert sum("in the requests" in line for line in lines) == 3
    assert lines[3].endswith("6 numbers more")


def test_the_end_says_over_what_and_how_sure():
    assert summary(report())[-2:] == [
        "looks     2, 40 requests; over all of them one false alarm in 100 artifacts at most",
        "result    1 number of 1 drifted",
    ]
    assert summary(report(found=False))[-1] == "result    no drift found in 1 number"
    noted = report().model_copy(update={"notes": ("outputs were left out: no GPU",)})
    assert "note      outputs were left out: no GPU" in summary(noted)
