from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators._metric import Metric, stack_rows
from mopt.evaluators.metric_choice import load_metric
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from tests.evaluators.metrics.cases import LOGITS, TABLE, TRUTH, Maker, load, scores, value

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
    outputs = scores(TABLE)
    metric = _function(user, samples, mine)
    assert value(metric, outputs, TRUTH.tolist(), outputs) == value(load(theirs), outputs, TRUTH.tolist(), outputs)
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
    assert value(metric, outputs, ["yes", "no"], outputs) == 0.5


def test_a_metric_that_raises_names_the_line(user: Path, samples: Maker) -> None:
    metric = _function(user, samples, "broken")
    rows = stack_rows([metric.rows(output, 0, output) for output in scores(TABLE[:3])])
    with pytest.raises(UserError, match=r"the metric user.py:broken raised KeyError: 'nothing'") as caught:
        metric.value(rows)
    line = USER.splitlines().index('    return outputs[0]["nothing"]') + 1
    assert caught.value.hint.endswith(f"user.py:{line}")


def test_a_metric_that_returns_nonsense(user: Path, samples: Maker) -> None:
    metric = _function(user, samples, "nonsense")
    rows = stack_rows([metric.rows(output, 0, output) for output in scores(TABLE[:3])])
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
