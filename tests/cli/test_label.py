import json
from pathlib import Path

import pytest

from mopt.workflows.label import LabelRequest
from tests.cli.running import run


@pytest.fixture
def written(monkeypatch):
    request = LabelRequest(Path("there/labels.csv"), 12, 3, 1500, {"onnxruntime-int8": 12, "openvino-int8": 4})
    monkeypatch.setattr("mopt.workflows.label.write_label_request", lambda *_, **__: request)


def test_what_to_fill_in_and_what_then(written):
    assert run("label", "m.mopt", "--quiet").stdout.splitlines() == [
        "changed   12 of 1,500 answers by onnxruntime-int8",
        "changed   4 of 1,500 answers by openvino-int8",
        "samples   12, the most informative first, 3 pictures beside",
        "labels    fill in the column label of there/labels.csv, then build again with --labels there/labels.csv",
    ]


def test_the_same_for_programs(written):
    shown = json.loads(run("label", "m.mopt", "--quiet", "--json").stdout)
    assert shown == {
        "file": "there/labels.csv", "samples": 12, "pictures": 3, "evaluation": 1500,
        "changed": {"onnxruntime-int8": 12, "openvino-int8": 4},
    }  # fmt: skip
