"""The backends in Python without a server: what they load, and what they make of the parameters."""

import json

import numpy as np
import onnx.parser
import pytest

from mopt.artifacts.serving._files.triton_backend import TritonPythonModel, check_tensors

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
double (float[batch, 3] x) => (float[batch, 3] y) { y = Add (x, x) }
"""


def config(backend="onnxruntime", most=4, dims=("3",), data_type="TYPE_FP32", **changes):
    tensor = {"data_type": data_type, "dims": list(dims)}
    parameters = {key: {"string_value": "1"} for key in ("INFERENCE_NUM_THREADS", "intra_op_thread_count")}
    return {
        "backend": backend, "max_batch_size": most, "input": [{"name": "x", **tensor}], "output": [{"name": "y", **tensor}],
        "parameters": parameters, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import openvino

    folder = tmp_path_factory.mktemp("model") / "1"
    folder.mkdir()
    onnx.save(onnx.parser.parse_model(MODEL), folder / "model.onnx")
    openvino.save_model(openvino.convert_model(str(folder / "model.onnx")), str(folder / "model.xml"))
    return folder


@pytest.fixture
def opened(folder, tmp_path, monkeypatch):
    def make(settings):
        monkeypatch.setenv("MOPT_SERVED_REPORT", str(tmp_path / "{model}.json"))
        model = TritonPythonModel()
        arguments = {"model_config": json.dumps(settings), "model_name": "double"}
        model.initialize({**arguments, "model_repository": str(folder.parent), "model_version": folder.name})
        return model, tmp_path / "double.json"

    return make


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("rows", [(1,), (2, 1), (3, 1)])
def test_requests_run_together_and_each_gets_its_rows(opened, backend, rows):
    model, report = opened(config(backend, parameters={"ENABLE_BATCH_PADDING": {"string_value": "YES"}}))
    feeds = [{"x": np.full((count, 3), index + 1, np.float32)} for index, count in enumerate(rows)]
    answers = model._run(feeds)
    assert [answer["y"].tolist() for answer in answers] == [(2 * feed["x"]).tolist() for feed in feeds]
    assert report.with_suffix(".json.batches").read_text() == f"{sum(rows)}\n"


def test_openvino_takes_no_smaller_batch_unless_it_pads(opened):
    model, _ = opened(config("openvino"))
    assert len(model._run([{"x": np.ones((4, 3), np.float32)}])[0]["y"]) == 4
    with pytest.raises(ValueError, match="expected requests with batch size '4', got '1'"):
        model._run([{"x": np.ones((1, 3), np.float32)}])


def test_warm_ups_are_no_batches_that_were_asked_for(opened):
    model, report = opened(config(model_warmup=[{"name": "alone"}, {"name": "full", "count": 2}]))
    for rows in (1, 4, 4, 2):
        model._run([{"x": np.ones((rows, 3), np.float32)}])
    assert report.with_suffix(".json.batches").read_text() == "2\n"


def test_it_reports_what_openvino_says(opened):
    _, report = opened(
        config("openvino", parameters={"NUM_STREAMS": {"string_value": "1"}, "HINT_BF16": {"string_value": "YES"}})
    )
    told = json.loads(report.read_text())
    assert (told["precision"], told["streams"]) == ("bf16", 1)


def test_a_value_that_the_backend_does_not_take(opened):
    with pytest.raises(ValueError, match="'HINT_BF16' to be YES"):
        opened(config("openvino", parameters={"HINT_BF16": {"string_value": "1"}}))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dims": ["4"]}, "the model expects"),
        ({"most": 0}, "the model expects"),
        ({"data_type": "TYPE_INT64"}, "model provides TYPE_FP32"),
        ({"output": [{"name": "z", "data_type": "TYPE_FP32", "dims": ["3"]}]}, "unexpected inference output 'z'"),
        ({"input": []}, "expects 0 inputs, model provides 1"),
    ],
    ids=["size", "rank", "type", "name", "count"],
)
def test_what_differs_from_the_model_is_not_loaded(opened, backend, changes, words):
    with pytest.raises(ValueError, match=words):
        opened(config(backend, **changes))


def test_an_input_may_be_narrower_than_the_model_and_an_output_may_not():
    narrow = config(dims=["8"])
    check_tensors(narrow, "input", {"x": [-1, -1]}, {"x": "TYPE_FP32"})
    with pytest.raises(ValueError, match="tensor 'y'"):
        check_tensors(narrow, "output", {"y": [-1, -1]}, {"y": "TYPE_FP32"})
