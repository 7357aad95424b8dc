"""TorchServe's archive, which is what its own archiver makes; its server is in test_python_servers.py."""

import json
import subprocess
import zipfile

import pytest
import yaml

from mopt.artifacts.serving.torchserve import Torchserve
from mopt.system.environments import find_environment
from tests.artifacts.serving.services import missing, write
from tests.manifests import manifest

ENVIRONMENT = find_environment("torchserve")


def archive(folder):
    (path,) = (folder / "model-store").iterdir()
    return path, zipfile.ZipFile(path)


@pytest.mark.parametrize(("delay_us", "delay"), [(0, 1), (400, 1), (2_600, 3)])
def test_the_archive_has_the_batch_settings(delay_us, delay, tmp_path):
    """A delay of 0 would end every batch at two requests."""
    batching = manifest().batching.model_copy(update={"instances": 2, "queue_delay_us": delay_us})
    folder, _, _ = write("torchserve", "onnxruntime", tmp_path, batching=batching)
    settings = yaml.safe_load(archive(folder)[1].read("model-config.yaml"))
    assert (settings["minWorkers"], settings["maxWorkers"]) == (2, 2)
    assert (settings["batchSize"], settings["maxBatchDelay"]) == (8, delay)


def test_nobody_reaches_it_from_elsewhere_or_without_a_key(tmp_path):
    folder, _, _ = write("torchserve", "onnxruntime", tmp_path)
    lines = (folder / "config.properties").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert all(value.startswith("http://127.0.0.1:") for key, value in settings.items() if key.endswith("_address"))
    assert settings["disable_token_authorization"] == settings["enable_model_api"] == "false"


def test_people_are_told_that_nobody_maintains_it(tmp_path):
    folder, _, _ = write("torchserve", "onnxruntime", tmp_path)
    assert Torchserve.unmaintained
    assert "no longer maintained" in (folder / "README.md").read_text()


@pytest.mark.servers
@pytest.mark.skipif(ENVIRONMENT is None, reason=missing("torchserve"))
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_archive_is_what_its_archiver_makes(runtime, tmp_path):
    folder, _, _ = write("torchserve", runtime, tmp_path)
    path, written = archive(folder)
    content, store = tmp_path / "content", tmp_path / "store"
    written.extractall(content)
    facts = json.loads((content / "MAR-INF" / "MANIFEST.json").read_text())
    (content / "MAR-INF" / "MANIFEST.json").unlink()
    (content / "MAR-INF").rmdir()
    store.mkdir()
    model = facts["model"]
    arguments = [
        "--model-name", model["modelName"], "--version", model["modelVersion"], "--handler", content / model["handler"],
        "--config-file", content / model["configFile"], "--extra-files", content, "--export-path", store,
        "--archive-format", "zip-store",
    ]  # fmt: skip
    subprocess.run(list(map(str, [ENVIRONMENT.program("torch-model-archiver"), *arguments])), check=True, capture_output=True)
    made = zipfile.ZipFile(store / path.name)
    assert sorted(made.namelist()) == sorted(written.namelist())
    assert {member.compress_type for member in made.infolist()} == {member.compress_type for member in written.infolist()}
    for name in made.namelist():
        if name != "MAR-INF/MANIFEST.json":
            assert made.read(name) == written.read(name), name
    theirs = json.loads(made.read("MAR-INF/MANIFEST.json"))
    assert theirs.keys() == facts.keys()
    assert theirs | {"createdOn": ""} == facts | {"createdOn": ""}
