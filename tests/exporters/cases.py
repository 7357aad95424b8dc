"""What the tests of exports share: models as ONNX text, and samples for them."""

from pathlib import Path

import numpy as np
import onnx
from onnx import parser

from mopt.exporters.onnx import ExportOnnx
from mopt.model.signature import Feed

RNG = np.random.default_rng(0)


def graph(inputs: str, outputs: str, body: str, opset: int = 17) -> str:
    return f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {body}'


LINEAR = graph("float[?, 3] x", "float[?, 2] y", "<float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }")


def write(folder: Path, text: str) -> ExportOnnx:
    path = folder / "m.onnx"
    onnx.save(parser.parse_model(text), path)
    return ExportOnnx(source=str(path))


def rows(*shape: int, count: int = 4) -> list[Feed]:
    return [{"x": RNG.random(shape, dtype=np.float32)} for _ in range(count)]
