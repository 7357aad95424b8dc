"""Export scikit-learn, XGBoost and LightGBM models."""

from __future__ import annotations

__all__ = ["ExportSklearn"]

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.datasets.spec import SourceDefaults
from mopt.errors import UserError
from mopt.exporters._base import Exporter, rename_outputs, require
from mopt.model.signature import BATCH, Feed
from mopt.passes._base import PassResult

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

INPUT = "X"
LABEL, PROBABILITIES, PREDICTION = "label", "probabilities", "prediction"
_CLASSIFIER, _REGRESSOR = (LABEL, PROBABILITIES), (PREDICTION,)
_OPSETS = {"": 18, "ai.onnx.ml": 3}
_PICKLES = (".pkl", ".pickle", ".joblib")
_XGBOOST, _LIGHTGBM = (".json", ".ubj"), (".txt",)
_TREES = frozenset({"sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"})
"""What skops does not trust because a damaged tree can crash its process; it runs no code, and the process is a child."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSklearn(Exporter):
    """Convert a fitted model to operators of ``ai.onnx.ml``.

    The input is ``X``, float32[batch, features]. A classifier gives ``label`` and ``probabilities`` float32[batch, classes],
    a regressor ``prediction`` float32[batch, targets]; a classifier without probabilities gives the label alone.

    Attributes:
        trust_pickle: Load what runs code while it is loaded: pickles, and types that skops does not know.
    """

    accepts: ClassVar[str] = "scikit-learn (.skops, .pkl or .joblib), XGBoost (.json, .ubj), LightGBM (.txt)"
    libraries: ClassVar[tuple[str, ...]] = (
        "scikit-learn",
        "skl2onnx",
        "onnxmltools",
        "skops",
        "xgboost",
        "lightgbm",
        "onnx-ir",
    )
    extra: ClassVar[str] = "sklearn"

    trust_pickle: bool = False

    @classmethod
    def matches(cls, source: str) -> bool:
        """Whether it ends as the files of these libraries do."""
        return source.lower().endswith((".skops", *_PICKLES, *_XGBOOST, *_LIGHTGBM))

    def files(self) -> dict[str, Path]:
        """Return the one file."""
        return {"model": Path(self.source)}

    def apply(self, folder: Path) -> PassResult:
        """Convert; probabilities come as one tensor, not as a list of dictionaries."""
        import onnx_ir as ir

        from mopt.model.onnx_io import save

        fitted = self._loaded
        model = ir.from_proto(fitted.convert())
        model.opset_imports.setdefault("", _OPSETS[""])
        del model.graph.outputs[len(fitted.outputs) :]
        old = [str(value.name) for value in model.graph.outputs]
        rename_outputs(model, dict(zip(old, fitted.outputs, strict=True)))
        model.graph.inputs[0].shape = ir.Shape([BATCH, fitted.features])
        for value in model.graph.outputs:
            if value.shape is not None and len(value.shape):
                value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])
        save(model, folder)
        return PassResult(True, {"estimator": fitted.estimator})

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run the library's own ``predict`` and ``predict_proba``."""
        fitted = self._loaded
        return [fitted.run(feed[INPUT]) for feed in feeds]

    def brings(self) -> SourceDefaults:
        """Return the names of the columns that it was fitted with, and for a regressor R2, which is its own score."""
        fitted = self._loaded
        columns = {INPUT: fitted.columns} if len(fitted.columns) == fitted.features else {}
        return SourceDefaults(columns=columns, metric="r2" if fitted.outputs == _REGRESSOR else "")

    @functools.cached_property
    def _loaded(self) -> _Fitted:
        suffix = Path(self.source).suffix.lower()
        if suffix in _XGBOOST:
            return _xgboost(Path(self.source))
        if suffix in _LIGHTGBM:
            return _lightgbm(Path(self.source))
        require("skl2onnx", self.extra)
        estimator = self._load_skops() if suffix == ".skops" else self._load_pickle()
        return _sklearn(estimator)

    def _load_skops(self) -> Any:
        skops = require("skops.io", self.extra)
        try:
            untrusted = skops.get_untrusted_types(file=self.source)
            unknown = sorted(set(untrusted) - _TREES)
            estimator = skops.load(self.source, trusted=untrusted) if self.trust_pickle or not unknown else None
        except Exception as error:  # skops rebuilds objects, and raises whatever their classes do
            raise _unreadable(self.source, "skops", error) from error
        if estimator is None:
            raise UserError(
                f"{self.source} has types that skops does not trust: {', '.join(unknown)}",
                "if you trust who made it: --trust-pickle",
            )
        return estimator

    def _load_pickle(self) -> Any:
        if not self.trust_pickle:
            raise UserError(
                f"{self.source} is a pickle: loading it runs whatever code it holds",
                "save it with skops.io.dump, or, if you trust who made it: --trust-pickle",
            )
        joblib = require("joblib", self.extra)
        try:
            return joblib.load(self.source)
        except Exception as error:  # a pickle runs whatever code it holds
            raise _unreadable(self.source, "joblib", error) from error


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """A fitted model: how it is converted, and how it answers."""

    estimator: str
    outputs: tuple[str, ...]
    """What the first outputs of the converted model are called; it keeps no other."""
    features: int
    convert: Callable[[], onnx.ModelProto]
    run: Callable[[npt.NDArray[Any]], Feed]
    columns: tuple[str, ...] = ()
    """Names of the features, where it was fitted with names."""


def _sklearn(estimator: Any) -> _Fitted:
    from sklearn.base import is_classifier, is_regressor

    name = type(estimator).__name__
    features = getattr(estimator, "n_features_in_", None)
    if features is None:
        raise UserError(f"{name} does not say how many features it takes", "mopt takes fitted models of a numeric matrix")
    columns = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    _number_columns(estimator)
    if is_classifier(estimator):
        outputs = _CLASSIFIER if hasattr(estimator, "predict_proba") else (LABEL,)
        return _Fitted(name, outputs, features, _convert_sklearn(estimator), _classifies(estimator, outputs), columns)
    if is_regressor(estimator):
        return _Fitted(name, _REGRESSOR, features, _convert_sklearn(estimator), _regresses(estimator.predict), columns)
    raise UserError(f"{name} is neither a classifier nor a regressor", "give the whole pipeline, with its last step")


def _number_columns(estimator: Any) -> None:
    """Let every ColumnTransformer take its columns by their places, for the one matrix that the model takes has no names."""
    from sklearn.compose import ColumnTransformer

    for part in (estimator, *(step for _, step in getattr(estimator, "steps", ()))):
        if isinstance(part, ColumnTransformer) and hasattr(part, "feature_names_in_"):
            place = {name: index for index, name in enumerate(part.feature_names_in_)}
            part.transformers_ = [
                (name, step, [place.get(column, column) for column in columns] if isinstance(columns, list) else columns)
                for name, step, columns in part.transformers_
            ]


def _convert_sklearn(estimator: Any) -> Callable[[], onnx.ModelProto]:
    def convert() -> onnx.ModelProto:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        _register_boosters()
        steps = [step for _, step in getattr(estimator, "steps", [(None, estimator)])]
        scores = hasattr(estimator, "predict_proba")
        converted: onnx.ModelProto = to_onnx(
            estimator,
            initial_types=[(INPUT, FloatTensorType([None, estimator.n_features_in_]))],
            options={id(steps[-1]): {"zipmap": False}} if scores else None,
            target_opset=_OPSETS,
        )
        return converted

    return convert


def _register_boosters() -> None:
    """Teach skl2onnx the scikit-learn wrappers of XGBoost and LightGBM that the model has loaded."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes as classifier
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes as regressor

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    if "xgboost" in sys.modules:
        convert = require("onnxmltools.convert.xgboost.operator_converters.XGBoost", "boosting").convert_xgboost
        library = sys.modules["xgboost"]
        update_registered_converter(library.XGBClassifier, "XGBClassifier", classifier, convert, options=options)
        update_registered_converter(library.XGBRegressor, "XGBRegressor", regressor, convert)
    if "lightgbm" in sys.modules:
        convert = require("onnxmltools.convert.lightgbm.operator_converters.LightGbm", "boosting").convert_lightgbm
        library = sys.modules["lightgbm"]
        update_registered_converter(library.LGBMClassifier, "LgbmClassifier", classifier, convert, options=options)
        update_registered_converter(library.LGBMRegressor, "LgbmRegressor", regressor, convert)


def _classifies(estimator: Any, outputs: tuple[str, ...]) -> Callable[[npt.NDArray[Any]], Feed]:
    def run(x: npt.NDArray[Any]) -> Feed:
        import numpy as np

        answers = {LABEL: np.asarray(estimator.predict(x))}
        if PROBABILITIES in outputs:
            answers[PROBABILITIES] = np.asarray(estimator.predict_proba(x), dtype=np.float32)
        return answers

    return run


def _regresses(predict: Callable[[npt.NDArray[Any]], Any]) -> Callable[[npt.NDArray[Any]], Feed]:
    def run(x: npt.NDArray[Any]) -> Feed:
        import numpy as np

        return {PREDICTION: np.asarray(predict(x), dtype=np.float32).reshape(len(x), -1)}

    return run


def _xgboost(path: Path) -> _Fitted:
    require("onnxmltools", "boosting")
    xgboost = require("xgboost", "boosting")
    _check_xgboost_json(path)
    try:
        booster = xgboost.Booster(model_file=str(path))
        objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
        classifies = objective.startswith(("binary:", "multi:"))
        estimator = xgboost.XGBClassifier() if classifies else xgboost.XGBRegressor()
        estimator.load_model(str(path))
    except xgboost.core.XGBoostError as error:
        raise _unreadable(str(path), "XGBoost", error) from error
    outputs = _CLASSIFIER if classifies else _REGRESSOR
    run = _classifies(estimator, outputs) if classifies else _regresses(estimator.predict)
    columns = tuple(booster.feature_names or ())
    convert = _convert_boosted("xgboost", estimator)
    return _Fitted(f"XGBoost {objective}", outputs, booster.num_features(), convert, run, columns)


def _check_xgboost_json(path: Path) -> None:
    if path.suffix.lower() != ".json":
        return
    with path.open("rb") as stream:
        head = stream.read(4096)
    if not head.lstrip().startswith(b"{") or b'"learner"' not in head:
        raise UserError(f"{path} is not an XGBoost model", "write it with save_model('model.json')")


def _lightgbm(path: Path) -> _Fitted:
    require("onnxmltools", "boosting")
    lightgbm = require("lightgbm", "boosting")
    try:
        booster = lightgbm.Booster(model_file=str(path))
    except lightgbm.basic.LightGBMError as error:
        raise _unreadable(str(path), "LightGBM", error) from error
    objective = str(booster.dump_model(num_iteration=1).get("objective", "")).split(" ")[0]
    classifies = objective in ("binary", "multiclass", "multiclassova")
    run = _lightgbm_classes(booster) if classifies else _regresses(booster.predict)
    outputs = _CLASSIFIER if classifies else _REGRESSOR
    names = tuple(booster.feature_name())
    columns = () if names == tuple(f"Column_{index}" for index in range(len(names))) else names  # LightGBM's own
    convert = _convert_boosted("lightgbm", booster)
    return _Fitted(f"LightGBM {objective}", outputs, booster.num_feature(), convert, run, columns)


def _lightgbm_classes(booster: Any) -> Callable[[npt.NDArray[Any]], Feed]:
    def run(x: npt.NDArray[Any]) -> Feed:
        import numpy as np

        scores = np.asarray(booster.predict(x), dtype=np.float32)
        probabilities = np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores
        return {LABEL: probabilities.argmax(axis=1), PROBABILITIES: probabilities}

    return run


def _convert_boosted(library: str, estimator: Any) -> Callable[[], onnx.ModelProto]:
    def convert() -> onnx.ModelProto:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        features = getattr(estimator, "n_features_in_", None) or estimator.num_feature()
        options = {"zipmap": False} if library == "lightgbm" else {}
        converter = getattr(onnxmltools, f"convert_{library}")
        types = [(INPUT, FloatTensorType([None, features]))]
        converted: onnx.ModelProto = converter(estimator, initial_types=types, target_opset=15, **options)
        return converted

    return convert


def _unreadable(source: str, library: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{library} cannot load {source}: {reason}", "is it complete, and written by a compatible version?")
