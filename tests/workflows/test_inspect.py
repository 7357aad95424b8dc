import json
import random

import onnx
import onnx_ir as ir
import pytest

from benchmarks import mutators, seed_models
from mopt.errors import UserError
from mopt.model.onnx_io import load
from mopt.workflows.inspect import inspect
from tests.passes import graphs
from tests.workflows import artifacts


def test_a_model_is_described_without_running_it(tmp_path):
    model = graphs.cnn(tmp_path)
    described = inspect(model.file)
    assert (described.format, described.opset, described.file) == ("onnx", 17, str(model.file))
    assert described.parameters == sum(weight.size for weight in graphs.CNN_WEIGHTS.values())
    assert described.weights == {"float": (len(graphs.CNN_WEIGHTS), 4 * described.parameters)}
    assert described.operators["Conv"] == 2
    assert described.size_bytes == model.file.stat().st_size
    assert described.inputs == ({"name": "image", "dtype": "float32", "shape": ["batch", 3, 16, 16]},)


def test_branches_and_constants_are_counted(tmp_path):
    described = inspect(graphs.branches(tmp_path / "branches").file)
    assert described.parameters == 64 * 64
    assert described.operators == {"If": 1, "MatMul": 1, "Relu": 1}
    assert inspect(graphs.model(tmp_path / "old", graphs.CONSTANT_WEIGHTS).file).parameters == 16


def test_weights_in_a_file_of_their_own_count_for_the_size(tmp_path):
    (tmp_path / "m").mkdir()
    ir.save(load(graphs.cnn(tmp_path).file), tmp_path / "m" / "m.onnx", external_data="w", size_threshold_bytes=0)
    sizes = [(tmp_path / "m" / name).stat().st_size for name in ("m.onnx", "w")]
    assert inspect(tmp_path / "m" / "m.onnx").size_bytes == sum(sizes)


def test_operators_of_other_domains_have_theirs_before_the_name(tmp_path):
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> '
        "g (float[N] x) => (float[N] y) { y = com.microsoft.Gelu(x) }"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert inspect(tmp_path / "m.onnx").operators == {"com.microsoft::Gelu": 1}


def test_a_form_that_nothing_here_reads_is_told_as_the_build_recorded_it(tmp_path):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    path = tmp_path / "a" / "manifest.json"
    record = json.loads(path.read_text())
    record["format"] = "savedmodel"
    for trial in record["trials"]:
        passes = trial["passes"] or [
            {"name": "build_savedmodel", "fields": {}, "modified": True, "cached": False, "seconds": 0}
        ]
        trial["passes"] = [{**step, "detail": {"operators": {"AddV2": 1}}} for step in passes]
    path.write_text(json.dumps(record))
    described = inspect(tmp_path / "a")
    assert (described.format, described.operators) == ("savedmodel", {"AddV2": 1})
    assert [spec["name"] for spec in described.inputs] == [spec["name"] for spec in record["signature"]["inputs"]]


def test_an_artifact_is_the_model_in_it(tmp_path):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    described = inspect(tmp_path / "a")
    assert (described.artifact, described.chosen, described.operators) == (
        "double",
        "onnxruntime-int8",
        {"Add": 1, "Identity": 1},
    )


OPENVINO = """<?xml version="1.0"?>
<net name="m" version="11"><layers>
<layer id="0" name="x" type="Parameter"><output>
<port id="0" precision="FP32" names="x"><dim>-1</dim><dim>4</dim></port></output></layer>
<layer id="1" name="w" type="Const"><data element_type="i8" shape="4, 2" offset="0" size="8"/></layer>
<layer id="2" name="product" type="MatMul"/>
<layer id="3" name="y/sink" type="Result"><input><port id="0" precision="FP32"><dim>-1</dim><dim>2</dim></port></input></layer>
</layers></net>
"""


def test_a_model_of_openvino_is_read_from_its_xml(tmp_path):
    (tmp_path / "m.xml").write_text(OPENVINO)
    (tmp_path / "m.bin").write_bytes(bytes(8))
    described = inspect(tmp_path / "m.xml")
    assert described.format == "openvino"
    assert described.inputs == ({"name": "x", "dtype": "fp32", "shape": ["?", 4]},)
    assert described.outputs[0]["name"] == "y/sink"
    assert described.weights == {"i8": (1, 8)}
    assert described.size_bytes == len(OPENVINO) + 8


@pytest.mark.parametrize("number", ["x", "--5", "", "\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_a_number_of_openvino_that_is_none_is_unknown(tmp_path, number):
    text = OPENVINO.replace("<dim>4</dim>", f"<dim>{number}</dim>").replace('size="8"', f'size="{number}"')
    (tmp_path / "m.xml").write_text(text)
    described = inspect(tmp_path / "m.xml")
    assert described.inputs[0]["shape"] == ["?", "?"]
    assert described.weights == {"i8": (1, 0)}


def outcome(path):
    try:
        return inspect(path).format
    except UserError as error:
        return "refused" if error.hint else "refused without a hint"


@pytest.mark.parametrize("kind", mutators.KINDS)
def test_a_spoilt_model_is_described_or_refused(kind, tmp_path):
    seeds = [seed_models.write(name, tmp_path / "seeds") for name in ("cnn", "functions", "branch", "strings", "sparse")]
    contents = [path.read_bytes() for path in seeds]
    (tmp_path / "outside.bin").write_bytes(bytes(64))
    outcomes = set()
    for number in range(30):
        content, folder = contents[number % len(contents)], tmp_path / f"{number}"
        folder.mkdir()
        model = onnx.ModelProto.FromString(content)
        victim = mutators.Victim(folder, "m.onnx", content, model, [], contents, tmp_path / "outside.bin")
        mutators.mutate(victim, kind, random.Random(number))
        outcomes.add(outcome(folder / "m.onnx"))
    assert outcomes == {"onnx", "refused"} or kind == "truncation"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.xml", '<!DOCTYPE net [<!ENTITY a "b">]><net/>', "declares XML entities"),
        ("m.xml", "<net>", "is not an OpenVINO model"),
        ("m.onnx", "no model", r"m\\.onnx"),
        ("gone.onnx", None, "gone"),
        ("folder", None, "is not a model file or an artifact"),
    ],
)
def test_what_is_no_model_is_told(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message.replace("\\\\", "\\")) as caught:
        inspect(tmp_path / name)
    assert caught.value.hint
