import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators.metrics.expected_accuracy import ExpectedAccuracy
from mopt.evaluators.metrics.unlabelled import Unlabelled

RANDOM = np.random.default_rng(0)


def _softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(np.float32)


def _ctc():
    logits = RANDOM.standard_normal((1, 40, 30))
    logits[..., 0] += 6
    logits[0, ::5, :] = 0
    logits[0, np.arange(0, 40, 5), RANDOM.integers(1, 30, 8)] = 9
    return _softmax(logits)


SURE, FLAT = 5 * RANDOM.standard_normal((8, 1, 12)), 0.1 * RANDOM.standard_normal((8, 1, 12))
VECTORS = RANDOM.standard_normal((8, 1, 12))
VECTORS /= np.linalg.norm(VECTORS, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("outputs", "metric", "because"),
    [
        ({"y": _softmax(SURE)}, "expected_accuracy", "probabilities of classes"),
        ({"y": np.log(_softmax(SURE))}, "expected_accuracy", "log-probabilities of classes"),
        ({"y": SURE.astype(np.float32)}, "expected_accuracy", "taken for logits"),
        ({"y": FLAT.astype(np.float32)}, "expected_likelihood", "none of them is likely"),
        ({"y": RANDOM.random((8, 1, 1)).astype(np.float32)}, "expected_accuracy", "one probability"),
        ({"y": (10 * RANDOM.standard_normal((8, 1, 1))).astype(np.float32)}, "expected_error", "numbers"),
        ({"boxes": RANDOM.random((8, 1, 5, 4)).astype(np.float32)}, "expected_error", "places"),
        ({"y": VECTORS.astype(np.float32)}, "cosine", "embeddings"),
        ({"hidden": RANDOM.standard_normal((8, 1, 6, 12)).astype(np.float32)}, "cosine", "embeddings"),
        ({"y": np.stack([_ctc() for _ in range(8)])}, "expected_cer", "blank"),
        ({"y": RANDOM.integers(0, 5, (8, 1))}, "agreement", "integers or strings"),
        ({"label": RANDOM.integers(0, 5, (8, 1)), "p": _softmax(SURE)}, "expected_accuracy", "probabilities"),
        ({"a": _softmax(SURE), "b": _softmax(SURE)}, "fidelity", "several outputs"),
    ],
)
def test_the_question_is_asked_by_what_the_outputs_are(outputs, metric, because):
    answers = [{name: value[index] for name, value in outputs.items()} for index in range(8)]
    chosen, why = Unlabelled().choose(answers)
    assert chosen.name == metric
    assert because in why
    assert chosen.value(np.stack([chosen.rows(answer, None, answer) for answer in answers])) >= 0


def test_a_known_accuracy_is_for_classes():
    answers = [{"y": row.astype(np.float32)} for row in SURE]
    assert Unlabelled(known_accuracy=0.7).choose(answers)[0] == ExpectedAccuracy(output="y", known_accuracy=0.7)
    with pytest.raises(UserError, match="y holds integers"):
        Unlabelled(known_accuracy=0.7).choose([{"y": np.int64([1])}])


def test_one_output_of_several_may_be_named():
    answers = [{"y": row.astype(np.float32), "z": np.float32([[3.0]])} for row in SURE]
    assert Unlabelled().choose(answers)[0].name == "fidelity"
    assert Unlabelled(output="z").choose(answers)[0].name == "expected_error"
