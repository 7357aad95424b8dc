from pathlib import Path

import numpy as np
import pytest

from mopt.datasets.spec import SourceDefaults
from mopt.errors import UserError
from mopt.exporters._base import run_onnxruntime
from mopt.exporters._parity import compare
from mopt.exporters.sklearn import ExportSklearn
from mopt.model.onnx_signature import read_signature

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")
skops_io = pytest.importorskip("skops.io")

from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.svm import LinearSVC  # noqa: E402

pytestmark = pytest.mark.slow

LOADERS = {"cancer": load_breast_cancer, "wine": load_wine, "diabetes": load_diabetes}


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = LOADERS[name](return_X_y=True)
    return x.astype(np.float32), y


def check(exporter: ExportSklearn, x: np.ndarray, folder: Path) -> tuple[str, ...]:
    """Compare the export with the source on every row; return the names of the outputs."""
    folder.mkdir()
    exporter.apply(folder)
    feeds = [{"X": row[None]} for row in x]
    assert compare(exporter.reference(feeds), run_onnxruntime(folder / "model.onnx", feeds)).problem == ""
    signature = read_signature(folder / "model.onnx")
    assert [str(spec) for spec in signature.inputs] == [f"X: float32[batch, {x.shape[1]}]"]
    assert all(spec.shape[0] == "batch" for spec in signature.outputs)
    return tuple(spec.name for spec in signature.outputs)


@pytest.mark.parametrize(
    ("estimator", "name", "outputs"),
    [
        (RandomForestClassifier(10, random_state=0), "cancer", ("label", "probabilities")),
        (GradientBoostingClassifier(n_estimators=20, random_state=0), "cancer", ("label", "probabilities")),
        (RandomForestClassifier(10, random_state=0), "wine", ("label", "probabilities")),
        (make_pipeline(StandardScaler(), LogisticRegression()), "wine", ("label", "probabilities")),
        (LinearSVC(), "wine", ("label",)),
        (GradientBoostingRegressor(n_estimators=20, random_state=0), "diabetes", ("prediction",)),
    ],
    ids=["forest", "boosting", "three-classes", "pipeline", "no-probabilities", "regressor"],
)
def test_skops(tmp_path: Path, estimator, name: str, outputs: tuple[str, ...]) -> None:
    x, y = data(name)
    skops_io.dump(estimator.fit(x, y), tmp_path / "m.skops")
    assert check(ExportSklearn(source=str(tmp_path / "m.skops")), x, tmp_path / "out") == outputs


def test_the_columns_that_a_pipeline_was_fitted_with_come_along(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    table = load_diabetes(as_frame=True)
    steps = ColumnTransformer([("a", StandardScaler(), ["bp", "age"]), ("b", "passthrough", ["bmi"])])
    skops_io.dump(make_pipeline(steps, Ridge()).fit(table.data, table.target), tmp_path / "m.skops")
    exporter = ExportSklearn(source=str(tmp_path / "m.skops"))
    check(exporter, table.data.to_numpy(np.float32), tmp_path / "out")
    assert exporter.brings() == SourceDefaults(columns={"X": tuple(table.data.columns)}, metric="r2")


def test_a_classifier_of_arrays_brings_nothing(tmp_path: Path) -> None:
    skops_io.dump(LogisticRegression(max_iter=9).fit(*data("wine")), tmp_path / "m.skops")
    assert ExportSklearn(source=str(tmp_path / "m.skops")).brings() == SourceDefaults()


def test_labels_that_are_strings(tmp_path: Path) -> None:
    x, y = data("cancer")
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, np.array(["malign", "benign"])[y])
    skops_io.dump(estimator, tmp_path / "m.skops")
    check(ExportSklearn(source=str(tmp_path / "m.skops")), x, tmp_path / "out")
    assert read_signature(tmp_path / "out" / "model.onnx").outputs[0].dtype == "str"


def test_a_pickle_needs_trust(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    x, y = data("wine")
    joblib.dump(RandomForestClassifier(5).fit(x, y), tmp_path / "m.joblib")
    with pytest.raises(UserError, match="runs whatever code it holds") as caught:
        ExportSklearn(source=str(tmp_path / "m.joblib")).apply(tmp_path)
    assert "--trust-pickle" in caught.value.hint
    check(ExportSklearn(source=str(tmp_path / "m.joblib"), trust_pickle=True), x, tmp_path / "out")


class Own(LogisticRegression):
    """A type that skops does not know."""


def test_unknown_types_need_trust_and_are_named(tmp_path: Path) -> None:
    x, y = data("wine")
    skops_io.dump(Own().fit(x, y), tmp_path / "m.skops")
    with pytest.raises(UserError, match=r"does not trust: .*\.Own") as caught:
        ExportSklearn(source=str(tmp_path / "m.skops")).apply(tmp_path)
    assert "--trust-pickle" in caught.value.hint


@pytest.mark.parametrize("suffix", [".skops", ".json", ".ubj", ".txt"])
def test_a_damaged_file_is_the_users_mistake(tmp_path: Path, suffix: str) -> None:
    for library in ("xgboost", "lightgbm", "onnxmltools"):
        pytest.importorskip(library)
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError):
        ExportSklearn(source=str(path)).apply(tmp_path)


def test_a_transformer_is_no_model(tmp_path: Path) -> None:
    x, _ = data("wine")
    skops_io.dump(StandardScaler().fit(x), tmp_path / "m.skops")
    with pytest.raises(UserError, match="neither a classifier nor a regressor"):
        ExportSklearn(source=str(tmp_path / "m.skops")).apply(tmp_path)


@pytest.mark.parametrize("suffix", [".json", ".ubj"])
@pytest.mark.parametrize("name", ["cancer", "wine", "diabetes"])
def test_xgboost(tmp_path: Path, name: str, suffix: str) -> None:
    xgboost = pytest.importorskip("xgboost")
    pytest.importorskip("onnxmltools")
    x, y = data(name)
    kind = xgboost.XGBRegressor if name == "diabetes" else xgboost.XGBClassifier
    kind(n_estimators=10).fit(x, y).save_model(tmp_path / f"m{suffix}")
    outputs = ("prediction",) if name == "diabetes" else ("label", "probabilities")
    assert check(ExportSklearn(source=str(tmp_path / f"m{suffix}")), x, tmp_path / "out") == outputs


@pytest.mark.parametrize("name", ["cancer", "wine", "diabetes"])
def test_lightgbm(tmp_path: Path, name: str) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    pytest.importorskip("onnxmltools")
    x, y = data(name)
    kind = lightgbm.LGBMRegressor if name == "diabetes" else lightgbm.LGBMClassifier
    kind(n_estimators=10, verbose=-1).fit(x, y).booster_.save_model(tmp_path / "m.txt")
    outputs = ("prediction",) if name == "diabetes" else ("label", "probabilities")
    assert check(ExportSklearn(source=str(tmp_path / "m.txt")), x, tmp_path / "out") == outputs


def test_a_booster_inside_a_pickle(tmp_path: Path) -> None:
    joblib, xgboost = pytest.importorskip("joblib"), pytest.importorskip("xgboost")
    pytest.importorskip("onnxmltools")
    x, y = data("wine")
    joblib.dump(xgboost.XGBClassifier(n_estimators=5).fit(x, y), tmp_path / "m.pkl")
    check(ExportSklearn(source=str(tmp_path / "m.pkl"), trust_pickle=True), x, tmp_path / "out")
