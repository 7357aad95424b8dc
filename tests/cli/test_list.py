import json
import os
import subprocess
import sys

from tests.cli.running import run


def test_list_names_every_plugin_with_one_line():
    tables = json.loads(run("list", "--json").output)
    assert set(tables) >= {"exporters", "passes", "runtimes", "targets", "metrics", "readers", "serving"}
    for entries in tables.values():
        assert entries
        assert all(entries.values())
    assert "quantize_int8_static" in run("list", "passes").output


def test_a_plugin_of_another_package_is_listed_by_its_own_first_line_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "theirs"
    (package / "deep").mkdir(parents=True)
    for folder in (package, package / "deep"):
        (folder / "__init__.py").write_text("raise ImportError('mopt list imports nobody')")
    (package / "deep" / "metrics.py").write_text(
        '"""All metrics of theirs."""\n\n\nclass Dice:\n    """Overlap of two masks,\n    twice.\n\n    More.\n    """\n'
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mopt.metrics]\ndice = theirs.deep.metrics:Dice\n")
    command = [sys.executable, "-m", "mopt", "list", "metrics", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(listed.stdout)["metrics"]["dice"] == "Overlap of two masks, twice."
