"""Models to compare, and samples that they answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mopt.datasets.spec import DataSpec
from mopt.datasets.split import Split
from mopt.model.files import Model
from mopt.model.samples import Sample, Samples, write_samples
from mopt.recipe import Recipe, make_recipe
from mopt.regression.models import RunnableModel
from tests.passes import graphs
from tests.search.cases import RUNTIME, labelled, product, signature

RANDOM = """
<ir_version: 8, opset_import: ["" : 17]>
noisy (float[batch, 16] x) => (float[batch, 4] scores) {
    exact = MatMul (x, w) noise = RandomNormalLike <scale = 0.1> (exact) scores = Add (exact, noise)
}
"""


def runnable(model: Model, name: str = "new", **changes: Any) -> RunnableModel:
    fields = {"source": f"{name}.onnx", "runtime": RUNTIME, "signature": signature(model), "manifest": None, **changes}
    return RunnableModel(name=name, model=model, **fields)


def noisy(folder: Path) -> Model:
    """One that answers otherwise each time, and is right all the same."""
    weights = np.repeat(np.eye(4, dtype=np.float32), 4, axis=0)
    return graphs.model(folder, RANDOM, {"w": weights})


def sliced(folder: Path, count: int = 60) -> Samples:
    """Samples that the model has right, each in one of two slices."""
    plain = labelled(folder / "plain", count)
    labels = plain.labels or []
    (folder / "sliced").mkdir()
    return write_samples(
        folder / "sliced",
        (
            Sample(feed, labels[index], f"sample {index}", slices={"writer": "ann" if index < count // 2 else "bob"})
            for index, feed in enumerate(plain)
        ),
    )


def recipe(**values: Any) -> Recipe:
    return make_recipe({"model": "m.onnx", "data": "d.npz", "tolerance": "20%", **values})


def split(samples: Samples) -> Split:
    return Split(samples.first(0), samples, samples.digest, DataSpec(path="d"), {})


SPEC = DataSpec(path="d.npz")
__all__ = ["SPEC", "labelled", "noisy", "product", "recipe", "runnable", "sliced", "split"]
