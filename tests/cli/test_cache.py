import json

from tests.cli.running import run


def test_cache_is_measured_and_cleared(tmp_path, monkeypatch):
    from mopt.system.store import Store

    monkeypatch.setenv("MOPT_CACHE", str(tmp_path / "cache"))
    Store(tmp_path / "cache").get("models", {"a": 1}, lambda folder: (folder / "x").write_bytes(b"0" * 1000))
    found = json.loads(run("cache", "--json").output)
    assert found["kinds"]["models"]["entries"] == 1
    assert found["kinds"]["models"]["bytes"] >= 1000
    assert json.loads(run("cache", "--clear", "--json").output)["freed_bytes"] >= 1000
    assert json.loads(run("cache", "--json").output)["kinds"] == {}
