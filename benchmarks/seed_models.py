"""Thirty small models that are mutated: real ones out of packages, and one for each feature of the ONNX format."""

from __future__ import annotations

__all__ = ["NAMES", "write"]

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from tests.passes import graphs

_PACKAGED = {
    "magika": ("magika", "models/standard_v3_3/model.onnx"),
    "silero_vad": ("silero_vad", "data/silero_vad.onnx"),
    "silero_vad_without_if": ("silero_vad", "data/silero_vad_op18_ifless.onnx"),
    "ocr_classifier": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "ocr_detector": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr_recogniser": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "logistic_regression": ("onnxruntime", "datasets/logreg_iris.onnx"),
    "sequence_insert": ("onnx", "backend/test/data/simple/test_sequence_model1/model.onnx"),
    "sequence_split": ("onnx", "backend/test/data/simple/test_sequence_model6/model.onnx"),
    "string_normalizer": ("onnx", "backend/test/data/simple/test_strnorm_model_monday_insensintive_upper_twodim/model.onnx"),
    "gradient": ("onnx", "backend/test/data/simple/test_gradient_of_add/model.onnx"),
}
_TEXTS = {
    "constants": graphs.CONSTANT_WEIGHTS,
    "opset_7": graphs.OPSET_7,
    "loop": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y, float[steps, N, 4] each)
<float[4, 4] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, int64 trips = {3}, bool yes = {1}>
{
  y, each = Loop (trips, yes, x) <body = b (int64 i, bool c, float[N, 4] old) => (bool d, float[N, 4] after, float[N, 4] out) {
    d = Identity (c)
    product = MatMul (old, w)
    after = Tanh (product)
    out = Identity (after)
  }>
}""",
    "scan": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[4] start, float[steps, 4] x) => (float[4] last, float[steps, 4] y)
{
  last, y = Scan <num_scan_inputs = 1, body = b (float[4] state, float[4] step) => (float[4] next, float[4] out) {
    next = Add (state, step)
    out = Identity (next)
  }> (start, x)
}""",
    "functions": """
<ir_version: 10, opset_import: ["" : 18, "own" : 1]>
g (float[N, 4] x) => (float[N, 4] y)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}>
{
  a = own.Twice <factor = 2.0> (x, w)
  y = own.Outer (a, w)
}
<domain: "own", opset_import: ["" : 18]>
Twice <factor> (x, w) => (y) {
  f = Constant <value_float : float = @factor> ()
  m = MatMul (x, w)
  y = Mul (m, f)
}
<domain: "own", opset_import: ["" : 18, "own" : 1]>
Outer (x, w) => (y) {
  inner = own.Twice <factor = 0.5> (x, w)
  y = Relu (inner)
}""",
    "sequences_inside": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y)
<int64 zero = {0}>
{
  r = Relu (x)
  s = SequenceConstruct (x, r)
  first = SequenceAt (s, zero)
  all = ConcatFromSequence <axis = 0, new_axis = 1> (s)
  total = ReduceSum <keepdims = 0> (all, zero)
  y = Add (first, total)
}""",
    "optional": """
<ir_version: 8, opset_import: ["" : 18]>
g (float[N, 4] x) => (float[N, 4] y)
{
  o = Optional (x)
  there = OptionalHasElement (o)
  y = If (there) <
    then_branch = t () => (float[N, 4] a) { a = OptionalGetElement (o) },
    else_branch = e () => (float[N, 4] b) { b = Identity (x) }
  >
}""",
    "of_onnxruntime": """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[N, 4] x) => (float[N, 4] y)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}>
{
  h = com.microsoft.FusedMatMul <alpha = 0.5, transB = 1> (x, w)
  y = com.microsoft.Gelu (h)
}""",
    "strings": """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
g (string[N] word) => (int64[N] number, string[N] same)
{
  number = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b", "text"], values_int64s = [1, 2, 3], default_int64 = -1> (word)
  same = Identity (word)
}""",
}


def _cnn() -> onnx.ModelProto:
    return _with_weights(graphs.CNN, graphs.CNN_WEIGHTS)


def _transformer() -> onnx.ModelProto:
    return _with_weights(graphs.TRANSFORMER, graphs.TRANSFORMER_WEIGHTS)


def _branch() -> onnx.ModelProto:
    return _with_weights(graphs.BRANCHES, graphs.weights(w=(64, 64)))


def _quantized() -> onnx.ModelProto:
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 8] x) => (float[N, 4] y)
    <float xs = {0.02}, uint8 xz = {128}, float[4] ws = {0.01, 0.02, 0.01, 0.02}>
    {
      q = QuantizeLinear (x, xs, xz)
      d = DequantizeLinear (q, xs, xz)
      w = DequantizeLinear <axis = 1> (wq, ws, wz)
      y = MatMul (d, w)
    }"""
    model = parser.parse_model(text)
    values = np.arange(-16, 16).reshape(8, 4)
    model.graph.initializer.append(numpy_helper.from_array(values.astype(np.int8), "wq"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.int8), "wz"))
    return model


def _int4() -> onnx.ModelProto:
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 8] x) => (float[N, 4] y)
    <float[2, 4] ws = {0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2}>
    { w = DequantizeLinear <axis = 0, block_size = 4> (wq, ws)  y = MatMul (x, w) }"""
    model = parser.parse_model(text)
    packed = helper.make_tensor("wq", TensorProto.INT4, [8, 4], list(range(-8, 8)) * 2)
    model.graph.initializer.append(packed)
    return model


def _sparse() -> onnx.ModelProto:
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 3] y)
    { w = Constant <value = float[1] {0}> ()  h = MatMul (x, w)  y = Add (h, b) }""")
    values = numpy_helper.from_array(np.float32([1, 2, 3]), "sparse_w")
    indices = numpy_helper.from_array(np.int64([0, 4, 11]), "sparse_w_indices")
    constant = helper.make_node("Constant", [], ["w"], sparse_value=helper.make_sparse_tensor(values, indices, [4, 3]))
    model.graph.node[0].CopyFrom(constant)
    values = numpy_helper.from_array(np.float32([5]), "b")
    indices = numpy_helper.from_array(np.int64([1]), "b_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    return model


def _recurrent() -> onnx.ModelProto:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[steps, N, 6] x) => (float[steps, 1, N, 5] y)
    { y = LSTM <hidden_size = 5> (x, w, r) }"""
    return _with_weights(text, graphs.weights(w=(1, 20, 6), r=(1, 20, 5)))


def _half() -> onnx.ModelProto:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 8] x) => (float[N, 4] y)
    { h = Cast <to = 10> (x)  p = MatMul (h, w)  y = Cast <to = 1> (p) }"""
    return _with_weights(text, {"w": np.linspace(-1, 1, 32).reshape(8, 4).astype(np.float16)})


def _external() -> onnx.ModelProto:
    """A model whose weights are big enough to be written into two files beside it."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 32] x) => (float[N, 8] y)
    { h = MatMul (x, first)  r = Relu (h)  y = MatMul (r, second) }"""
    return _with_weights(text, graphs.weights(first=(32, 64), second=(64, 8)))


def _embedding() -> onnx.ModelProto:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (int64[N, length] ids, int64[N, length] mask) => (float[N, 16] y)
    <int64[1] axes = {1}>
    {
      e = Gather (table, ids)
      m = Cast <to = 1> (mask)
      two = Constant <value_ints = [2]> ()
      u = Unsqueeze (m, two)
      w = Mul (e, u)
      y = ReduceSum <keepdims = 0> (w, axes)
    }"""
    return _with_weights(text, graphs.weights(table=(50, 16)))


def _with_weights(text: str, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in arrays.items())
    return model


_MADE: dict[str, Callable[[], onnx.ModelProto]] = {
    "cnn": _cnn,
    "transformer": _transformer,
    "branch": _branch,
    "quantized": _quantized,
    "int4": _int4,
    "sparse": _sparse,
    "recurrent": _recurrent,
    "half": _half,
    "external": _external,
    "embedding": _embedding,
}
NAMES = (*_PACKAGED, *_TEXTS, *_MADE)
"""Of all seed models."""


def write(name: str, folder: Path) -> Path:
    """Write a seed model and return its path.

    Raises:
        SystemExit: When the package that it ships in is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    if name in _PACKAGED:
        package, inside = _PACKAGED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{name} is part of the package {package}, which is not installed")
        shutil.copyfile(Path(spec.origin).parent / inside, path)
    else:
        onnx.save(parser.parse_model(_TEXTS[name]) if name in _TEXTS else _MADE[name](), str(path))
    return path
