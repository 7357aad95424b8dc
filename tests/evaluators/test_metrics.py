from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators._metric import Metric, stack_rows
from mopt.evaluators.metric_choice import load_metric
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.model.samples import Sample, Samples, write_samples
from mopt.model.signature import Signature, TensorSpec
from mopt.system import plugins

sklearn_metrics = pytest.importorskip("sklearn.metrics")

Maker = Callable[..., Samples]


@pytest.fixture
def samples(tmp_path: Path) -> Maker:
    def make(labels: list[Any] | None) -> Samples:
        folder = tmp_path / f"samples-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        feeds = (Sample({"x": np.zeros((1, 1), np.float32)}, label, str(i)) for i, label in enumerate(labels or [None] * 3))
        return write_samples(folder, feeds)

    return make


def _signature(*outputs: tuple[str, str, tuple[int | str, ...]]) -> Signature:
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in outputs)
    return Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 1)),), outputs=specs)


LOGITS = _signature(("logits", "float32", ("batch", 10)))


def _load(name: str, **options: Any) -> Metric:
    return plugins.load("metrics", name)(**options)


def _value(metric: Metric, outputs: list[dict[str, Any]], labels: list[Any], references: list[dict[str, Any]]) -> float:
    triples = zip(outputs, labels, references, strict=True)
    return metric.value(stack_rows([metric.rows(*triple) for triple in triples]))


def _scores(array: np.ndarray, name: str = "logits") -> list[dict[str, Any]]:
    return [{name: row[None]} for row in array.astype(np.float32)]


RANDOM = np.random.default_rng(0)
TABLE = RANDOM.standard_normal((300, 10)).astype(np.float32)
TRUTH = np.where(RANDOM.random(300) < 0.6, TABLE.argmax(1), RANDOM.integers(0, 10, 300))


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_every_metric_is_a_frozen_documented_metric(name: str) -> None:
    metric = _load(name)
    assert isinstance(metric, Metric)
    assert type(metric).__doc__
    assert metric.name == name
    assert metric.key()["metric"] == name
    with pytest.raises(AttributeError):
        metric.output = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", lambda: sklearn_metrics.accuracy_score(TRUTH, TABLE.argmax(1))),
        ("top5", lambda: sklearn_metrics.top_k_accuracy_score(TRUTH, TABLE, k=5)),
        ("f1", lambda: sklearn_metrics.f1_score(TRUTH, TABLE.argmax(1), average="macro")),
    ],
)
def test_class_metrics_equal_those_of_scikit_learn(name: str, expected: Callable[[], float]) -> None:
    outputs = _scores(TABLE)
    assert _value(_load(name), outputs, TRUTH.tolist(), outputs) == pytest.approx(expected())


@pytest.mark.parametrize(
    ("name", "function"), [("mae", "mean_absolute_error"), ("mse", "mean_squared_error"), ("r2", "r2_score")]
)
@pytest.mark.parametrize("width", [1, 3])
def test_regression_metrics_equal_those_of_scikit_learn(name: str, function: str, width: int) -> None:
    truth, answer = TABLE[:, :width], (TABLE[:, :width] + 0.3 * TABLE[:, 3:4]).astype(np.float32)
    expected = getattr(sklearn_metrics, function)(truth, answer)
    outputs = _scores(answer, "y")
    assert _value(_load(name), outputs, truth.tolist(), outputs) == pytest.approx(expected, rel=1e-5)


def test_pearson_equals_numpy() -> None:
    answer, truth = TABLE[:, 0], TABLE[:, 0] + TABLE[:, 1]
    outputs = _scores(answer[:, None], "y")
    assert _value(_load("pearson"), outputs, truth.tolist(), outputs) == pytest.approx(np.corrcoef(answer, truth)[0, 1])


@pytest.mark.parametrize("shape", ["probability", "two-scores"])
def test_auc_equals_scikit_learn_with_ties(shape: str) -> None:
    score, truth = np.round(TABLE[:, 0], 1), (TABLE[:, 0] + TABLE[:, 1] > 0).astype(int)
    table = score[:, None] if shape == "probability" else np.stack([-score, score], axis=1)
    outputs = _scores(table, "p")
    expected = sklearn_metrics.roc_auc_score(truth, score)
    assert _value(_load("auc"), outputs, truth.tolist(), outputs) == pytest.approx(expected)


def test_accuracy_reads_the_label_that_scikit_learn_models_put_out() -> None:
    outputs = [{"label": np.int64([7]), "probabilities": np.float32([[0.1, 0.9]])}]
    assert _value(_load("accuracy"), outputs, [7], outputs) == 1.0
    assert _value(_load("accuracy", output="probabilities"), outputs, [1], outputs) == 1.0
    words = [{"label": np.array(["cat"], dtype=object), "probabilities": np.float32([[0.1, 0.9]])}]
    assert _value(_load("accuracy"), words, ["cat"], words) == 1.0
    assert _value(_load("accuracy"), words, ["dog"], words) == 0.0


def test_names_of_classes_translate_labels() -> None:
    outputs = _scores(np.array([[0.1, 0.9], [0.8, 0.2]]))
    assert _value(_load("accuracy", classes=("cat", "dog")), outputs, ["dog", "dog"], outputs) == 0.5
    with pytest.raises(UserError, match="which number has the class dgo") as caught:
        _value(_load("accuracy", classes=("cat", "dog")), outputs, ["dgo", "dog"], outputs)
    assert "dog" in caught.value.hint


@pytest.mark.parametrize(
    ("outputs", "label", "message"),
    [
        ({"y": np.ones((1, 3, 4), np.float32)}, 1, "no output is scores of classes"),
        ({"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float32)}, 1, "several outputs are scores"),
        ({"y": np.ones((1, 3), np.float32)}, 3, "the label 3 is none of the 3 classes"),
        ({"y": np.ones((1, 3), np.float32)}, 1.5, "the label '1.5' is no class"),
        ({"y": np.ones((1, 3), np.float32)}, "cat", "which number has the class cat"),
    ],
)
def test_accuracy_of_what_has_no_classes(outputs: dict[str, Any], label: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _load("accuracy").rows(outputs, label, outputs)
    assert caught.value.hint


def _steps(text: str, charset: str) -> np.ndarray:
    path: list[int] = []
    for character in text:
        step = charset.index(character) + 1
        path += [0, step, step]
    return np.eye(len(charset) + 2, dtype=np.float32)[path][None]


def test_cer_decodes_and_counts_edits() -> None:
    metric = _load("cer", charset=tuple("ablo"))
    outputs = {"y": _steps("ball", "ablo")}
    assert metric.decode(outputs) == "ball"
    assert metric.decode({"y": outputs["y"].transpose(1, 0, 2)}) == "ball"
    assert metric.rows(outputs, "ball", outputs).tolist() == [0.0, 4.0]
    assert metric.rows(outputs, "bowl", outputs).tolist() == [2.0, 4.0]
    assert _value(metric, [outputs, outputs], ["ball", "ballad"], [outputs, outputs]) == pytest.approx(2 / 10)
    space = np.eye(6, dtype=np.float32)[[1, 5, 2]][None]
    assert metric.decode({"y": space}) == "a b"


def test_cer_takes_the_characters_from_the_model(samples: Maker) -> None:
    signature = _signature(("y", "float32", ("batch", "steps", 6)))
    metric = load_metric("cer", samples(["ab"] * 3), signature, metadata={"character": "a\nb\nl\no"})
    assert metric.key()["charset"] == ("a", "b", "l", "o")
    bare = load_metric("cer", samples(["ab"] * 3), signature)
    with pytest.raises(UserError, match="which character each class is"):
        bare.rows({"y": np.ones((1, 3, 6), np.float32)}, "ab", {})


def test_fidelity_of_scores_is_top1_and_of_embeddings_is_cosine() -> None:
    scores, other = np.float32([[0.1, 0.9]]), np.float32([[0.4, 0.6]])
    metric = _load("fidelity")
    assert _value(metric, [{"p": other}], [None], [{"p": scores}]) == 1.0
    assert _value(metric, [{"p": 1 - other}], [None], [{"p": scores}]) == 0.0
    assert _value(metric, [{"embedding": 1 - other}], [None], [{"embedding": scores}]) < 0.9
    tokens = TABLE[:4][None]
    assert _value(metric, [{"h": tokens * 1.5}], [None], [{"h": tokens}]) == pytest.approx(1.0)


def test_fidelity_counts_the_output_that_agrees_least() -> None:
    reference = {"boxes": TABLE[:4][None], "count": np.int64([[4, 1]])}
    metric = _load("fidelity")
    assert _value(metric, [reference], [None], [reference]) == 1.0
    assert _value(metric, [{**reference, "count": np.int64([[4, 2]])}], [None], [reference]) == 0.5
    assert _value(metric, [{**reference, "boxes": -TABLE[:4][None]}], [None], [reference]) == pytest.approx(-1.0)


def test_fidelity_of_a_single_number_is_the_coefficient_of_determination() -> None:
    truth, answer = TABLE[:, 0], TABLE[:, 0] + 0.2 * TABLE[:, 1]
    found = _value(_load("fidelity"), _scores(answer[:, None], "p"), [None] * 300, _scores(truth[:, None], "p"))
    assert found == pytest.approx(sklearn_metrics.r2_score(truth, answer), rel=1e-5)


def test_cosine_metric() -> None:
    reference = {"h": np.float32([[3, 4]])}
    assert _value(_load("cosine"), [{"h": np.float32([[4, 3]])}], [None], [reference]) == pytest.approx(0.96)
    with pytest.raises(UserError, match="cosine is for floating-point outputs"):
        _load("cosine").rows({"n": np.int64([1])}, None, {"n": np.int64([1])})


@pytest.mark.parametrize(
    ("labels", "outputs", "expected"),
    [
        ([0, 1, 9], [("logits", "float32", ("batch", 10))], "accuracy"),
        ([0, 1, 10], [("logits", "float32", ("batch", 10))], "fidelity"),
        ([0, 1, 10], [("label", "int64", ("batch",)), ("probabilities", "float32", ("batch", 3))], "accuracy"),
        (["a", "b", "a"], [("label", "str", ("batch",)), ("probabilities", "float32", ("batch", 3))], "accuracy"),
        (["a", "b", "a"], [("logits", "float32", ("batch", 10))], "fidelity"),
        ([0.5, 1.5, 2.0], [("y", "float32", ("batch", 10))], "fidelity"),
        ([0, 1, 2], [("a", "float32", ("batch", 3)), ("b", "float32", ("batch", 3))], "fidelity"),
        (None, [("logits", "float32", ("batch", 10))], "fidelity"),
    ],
    ids=["classes", "beyond", "sklearn", "sklearn-words", "words", "numbers", "two-outputs", "unlabelled"],
)
def test_the_metric_that_is_taken_when_none_is_named(
    samples: Maker, labels: list[Any] | None, outputs: list[Any], expected: str
) -> None:
    assert load_metric("auto", samples(labels), _signature(*outputs)).name == expected


@pytest.mark.parametrize(
    ("spec", "labels", "options", "message", "hint"),
    [
        ("acuracy", [0, 1, 2], {}, "unknown metric: acuracy", "accuracy"),
        ("accuracy", None, {}, "needs labels and the data has none", "fidelity"),
        ("accuracy", [0, 1, 2], {"outptu": "logits"}, "has no option outptu", "output"),
        ("accuracy", [0, 1, 2], {"output": "logit"}, "the model has no output logit", "logits"),
        ("cer", ["a", "b", "c"], {"blank": "x"}, "the metric cer: blank", "metric_options"),
    ],
)
def test_wrong_metrics(
    samples: Maker, spec: str, labels: list[Any] | None, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_metric(spec, samples(labels), LOGITS, options)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


USER = """
import numpy as np

def each(outputs, labels):
    return np.array([output["logits"].argmax() == label for output, label in zip(outputs, labels)])

def whole(outputs, labels):
    return float(np.mean([output["logits"].argmax() == label for output, label in zip(outputs, labels)]))

def loss(outputs, labels):
    return [float(abs(output["logits"]).sum()) for output in outputs]
loss.higher_is_better = False

def words(outputs, labels):
    return sum(label == "yes" for label in labels) / len(labels)

def broken(outputs, labels):
    return outputs[0]["nothing"]

def nonsense(outputs, labels):
    return [1.0, 2.0]
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "user.py").write_text(USER)
    return tmp_path


def _function(user: Path, samples: Maker, name: str, **options: Any) -> Metric:
    return load_metric(f"user.py:{name}", samples([0, 1, 2]), LOGITS, options, base=user)


@pytest.mark.slow
@pytest.mark.parametrize(("mine", "theirs"), [("each", "accuracy"), ("whole", "accuracy")])
def test_a_metric_of_the_user_equals_the_same_of_mopt(user: Path, samples: Maker, mine: str, theirs: str) -> None:
    outputs = _scores(TABLE)
    metric = _function(user, samples, mine)
    assert _value(metric, outputs, TRUTH.tolist(), outputs) == _value(_load(theirs), outputs, TRUTH.tolist(), outputs)
    rows = stack_rows([metric.rows(output, label, output) for output, label in zip(outputs, TRUTH.tolist(), strict=True)])
    quality = noninferiority_test(metric, rows, rows, Tolerance.parse("2%"))
    assert (quality.difference, quality.verdict) == (0.0, "pass")
    assert quality.bound == pytest.approx(-3 / 300, rel=0.03)


def test_a_loss_of_the_user_is_better_when_smaller(user: Path, samples: Maker) -> None:
    assert not _function(user, samples, "loss").higher_is_better
    assert _function(user, samples, "loss", higher_is_better=True).higher_is_better
    assert not _function(user, samples, "each", higher_is_better=False).higher_is_better


def test_outputs_and_labels_come_back_as_they_were(user: Path, samples: Maker) -> None:
    metric = _function(user, samples, "words")
    outputs = [{"text": np.array(["a", "längere"], dtype=object), "n": np.int64([2**60])}, {"logits": np.ones((1, 3))}]
    assert _value(metric, outputs, ["yes", "no"], outputs) == 0.5


def test_a_metric_that_raises_names_the_line(user: Path, samples: Maker) -> None:
    metric = _function(user, samples, "broken")
    rows = stack_rows([metric.rows(output, 0, output) for output in _scores(TABLE[:3])])
    with pytest.raises(UserError, match=r"the metric user.py:broken raised KeyError: 'nothing'") as caught:
        metric.value(rows)
    line = USER.splitlines().index('    return outputs[0]["nothing"]') + 1
    assert caught.value.hint.endswith(f"user.py:{line}")


def test_a_metric_that_returns_nonsense(user: Path, samples: Maker) -> None:
    metric = _function(user, samples, "nonsense")
    rows = stack_rows([metric.rows(output, 0, output) for output in _scores(TABLE[:3])])
    with pytest.raises(UserError, match="returned list, no number and not one for each sample"):
        metric.value(rows)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("user.py:missing", "user.py has no function missing"),
        ("other.py:each", "no such file"),
        ("no.such.package:each", "no module named no.such.package"),
    ],
)
def test_a_metric_that_is_not_there(user: Path, samples: Maker, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_metric(spec, samples([0, 1, 2]), LOGITS, base=user)


def test_the_key_changes_with_the_file(user: Path, samples: Maker) -> None:
    before = _function(user, samples, "each").key()
    assert _function(user, samples, "each").key() == before
    (user / "user.py").write_text(USER + "\n# changed\n")
    assert _function(user, samples, "each").key() != before
