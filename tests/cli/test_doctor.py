import json

from tests.cli.running import run


def test_doctor_knows_core_and_extras():
    found = json.loads(run("doctor", "--json").output)
    libraries = {(entry["extra"], entry["library"]): entry for entry in found["libraries"]}
    assert libraries["", "onnxruntime"]["version"]
    assert ("openvino", "nncf") in libraries
    missing = [entry for entry in found["libraries"] if not entry["version"]]
    assert all(entry["install"].startswith("pip install") for entry in missing)


def test_doctor_knows_the_servers_that_can_be_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path))
    tools = {tool["name"]: tool for tool in json.loads(run("doctor", "--json").output)["tools"]}
    assert tools["triton"]["install"] == "mopt tools install triton"
    assert "mopt tools install triton" in run("doctor").stdout
