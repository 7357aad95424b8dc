"""What the tests of metrics share: outputs, labels, and a metric's value over them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mopt.evaluators._metric import Metric, stack_rows
from mopt.model.samples import Samples
from mopt.model.signature import Signature, TensorSpec
from mopt.system import plugins

Maker = Callable[..., Samples]


def signature(*outputs: tuple[str, str, tuple[int | str, ...]]) -> Signature:
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in outputs)
    return Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 1)),), outputs=specs)


LOGITS = signature(("logits", "float32", ("batch", 10)))


def load(name: str, **options: Any) -> Metric:
    return plugins.load("metrics", name)(**options)


def value(metric: Metric, outputs: list[dict[str, Any]], labels: list[Any], references: list[dict[str, Any]]) -> float:
    triples = zip(outputs, labels, references, strict=True)
    return metric.value(stack_rows([metric.rows(*triple) for triple in triples]))


def scores(array: np.ndarray, name: str = "logits") -> list[dict[str, Any]]:
    return [{name: row[None]} for row in array.astype(np.float32)]


RANDOM = np.random.default_rng(0)
TABLE = RANDOM.standard_normal((300, 10)).astype(np.float32)
TRUTH = np.where(RANDOM.random(300) < 0.6, TABLE.argmax(1), RANDOM.integers(0, 10, 300))
