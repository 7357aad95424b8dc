import json

from tests.cli.running import run


def test_doctor_knows_core_and_extras():
    found = json.loads(run("doctor", "--json").output)
    libraries = {(entry["extra"], entry["library"]): entry for entry in found["libraries"]}
    assert libraries["", "onnxruntime"]["version"]
    assert ("openvino", "nncf") in libraries
    missing = [entry for entry in found["libraries"] if not entry["version"]]
    assert all(entry["install"].startswith("pip install") for entry in missing)
