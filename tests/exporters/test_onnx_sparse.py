from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper, parser

from mopt.errors import UserError
from mopt.exporters._base import run_onnxruntime
from mopt.exporters._onnx_sparse import find_sparse_problem
from mopt.exporters.onnx import ExportOnnx

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 3] y)
{ w = Constant <value = float[1] {0}> ()  h = MatMul (x, w)  y = Add (h, b) }
"""


def sparse(values: list[float], indices: object, dims: list[int], name: str = "s") -> SparseTensorProto:
    parts = numpy_helper.from_array(np.float32(values), name), numpy_helper.from_array(np.array(indices, np.int64), "at")
    return helper.make_sparse_tensor(*parts, dims)


def test_sparse_constants_become_dense_and_answer_the_same(tmp_path: Path) -> None:
    model = parser.parse_model(TEXT)
    weights = sparse([1, 2, 3], [0, 4, 11], [4, 3])
    model.graph.node[0].CopyFrom(helper.make_node("Constant", [], ["w"], sparse_value=weights))
    model.graph.sparse_initializer.append(sparse([5], [[1]], [3], name="b"))
    onnx.save(model, tmp_path / "m.onnx")
    exporter, out = ExportOnnx(source=str(tmp_path / "m.onnx")), tmp_path / "out"
    out.mkdir()
    exporter.apply(out)
    feed = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    (expected,), (actual,) = exporter.reference([feed]), run_onnxruntime(out / "model.onnx", [feed])
    np.testing.assert_array_equal(actual["y"], expected["y"])
    assert not onnx.load(out / "model.onnx").graph.sparse_initializer


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (sparse([1], [0], [3]), ""),
        (sparse([1], [[2, 1]], [3, 2]), ""),
        (sparse([], [], [3]), ""),
        (sparse([1], [3], [3]), "indices that do not fit"),
        (sparse([1], [-1], [3]), "indices that do not fit"),
        (sparse([1], [[0, 2]], [3, 2]), "indices that do not fit"),
        (sparse([1, 2], [0], [3]), "indices that do not fit"),
        (sparse([1], [0], [-3]), "negative size"),
        (sparse([1], [0], [2**40, 2**40]), "GB when it is dense"),
    ],
)
def test_what_cannot_be_made_dense_is_told(tensor: SparseTensorProto, problem: str) -> None:
    found = find_sparse_problem(tensor)
    assert problem in found if problem else found == ""


def test_a_sparse_tensor_has_no_data_elsewhere(tmp_path: Path) -> None:
    model = parser.parse_model(TEXT)
    tensor = sparse([5], [1], [3], name="b")
    tensor.values.data_location = TensorProto.EXTERNAL
    tensor.values.external_data.add(key="location", value="../outside")
    model.graph.sparse_initializer.append(tensor)
    model.graph.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(np.zeros((4, 3), np.float32)))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="has external data"):
        ExportOnnx(source=str(tmp_path / "m.onnx")).digest()
