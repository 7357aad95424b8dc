import json

import pytest

from mopt.errors import UserError
from mopt.reports.sizing import render_sizing
from tests import sizings
from tests.cli.running import run

SIZE = ["size", "m.mopt", "--rate", "1000", "--quiet"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, received):
    monkeypatch.chdir(tmp_path)


def test_the_table_is_cut_and_the_report_is_whole(monkeypatch, tmp_path):
    options = [sizings.option(f"machine-{index:02d}", 100.0 + index) for index in range(30)]
    monkeypatch.setattr("mopt.workflows.size.size", lambda *_, **__: sizings.sizing(*options))
    shown = run(*SIZE).stdout
    assert "machine-23" in shown
    assert "machine-24" not in shown
    assert "and 6 more in the report" in shown
    assert "report    m-sizing.html" in shown
    assert (tmp_path / "m-sizing.html").exists()


def test_programs_get_all_options(monkeypatch):
    result = sizings.sizing(sizings.option(), sizings.option("other", spread=0.2))
    monkeypatch.setattr("mopt.workflows.size.size", lambda *_, **__: result)
    assert json.loads(run(*SIZE, "--json").stdout) == json.loads(result.model_dump_json())


def test_a_day_may_be_written_or_lie_in_a_file(received, tmp_path):
    hours = [str(100 + hour) for hour in range(24)]
    (tmp_path / "day.txt").write_text("\n".join(hours))
    seen = []
    for number, text in enumerate((",".join(hours), "day.txt")):
        received.clear()
        run(*SIZE, "--daily", text, "--out", f"{number}.html")
        seen.append([call for call in received if "mopt.workflows.size.size " in call])
    assert seen[0] == seen[1]
    assert "123.0" in seen[0][0]
    with pytest.raises(UserError, match="--daily: could not convert"):
        run(*SIZE, "--daily", "1,two")


def test_a_report_that_is_there_is_kept(received, tmp_path):
    (tmp_path / "m-sizing.html").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        run(*SIZE)
    assert (tmp_path / "m-sizing.html").read_text() == "mine"
    assert not [call for call in received if "mopt.workflows.size.size " in call]
    run(*SIZE, "--force")
    assert (tmp_path / "m-sizing.html").read_text() == "<p>sizing"


def test_a_report_that_mopt_wrote_is_written_anew(monkeypatch, tmp_path):
    monkeypatch.setattr("mopt.reports.sizing.render_sizing", render_sizing)
    for name in ("first", "second"):
        monkeypatch.setattr("mopt.workflows.size.size", lambda *_, name=name, **__: sizings.sizing(sizings.option(name)))
        run(*SIZE)
    page = (tmp_path / "m-sizing.html").read_text()
    assert "second" in page
    assert "first" not in page
