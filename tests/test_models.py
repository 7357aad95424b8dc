from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests import models

pytestmark = pytest.mark.slow


def get(name: str, folder: Path, limit: int | None = None) -> models.Case:
    try:
        return models.case(name, folder, limit)
    except models.UnavailableError as reason:
        pytest.skip(str(reason))


def answers(case: models.Case) -> list[list[np.ndarray]]:
    session = onnxruntime.InferenceSession(str(models.onnx_file(case)), providers=["CPUExecutionProvider"])
    return [session.run(None, feed) for feed, _ in models.load_samples(case.held_out)]


def share_right(case: models.Case) -> float:
    labels = [label for _, label in models.load_samples(case.held_out)]
    found = [first.ravel()[0] if first.dtype.kind == "i" else first.argmax() for first, *_ in answers(case)]
    return float(np.mean([answer == label for answer, label in zip(found, labels, strict=True)]))


def test_magika_features_are_those_of_the_package(cases: Path) -> None:
    magika = pytest.importorskip("magika")
    example = models.runpy.run_path(str(models.REPOSITORY / "examples" / "magika_data.py"))
    classifier = magika.Magika()
    for path in (*sorted(models.SOURCES.glob("*.py")), example["model"]()):
        _, theirs = classifier._get_result_or_features_from_path(path)
        assert example["features"](path).tolist() == [*theirs.beg, *theirs.end], path


@pytest.mark.parametrize(
    ("name", "limit", "least"),
    [
        pytest.param("magika", 200, 0.85, id="magika"),
        pytest.param("ocr_cls", 40, 0.95, id="ocr_cls"),
        pytest.param("random_forest", None, 0.9, id="random_forest"),
        pytest.param("gradient_boosting", None, 0.9, id="gradient_boosting"),
        pytest.param("digits_cnn", None, 0.93, id="digits_cnn", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", 60, 0.6, id="efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param("minilm_sentiment", 200, 0.7, id="minilm_sentiment", marks=pytest.mark.slow),
    ],
)
def test_labels_are_what_the_model_means(cases: Path, name: str, limit: int | None, least: float) -> None:
    assert share_right(get(name, cases, limit)) >= least


@pytest.mark.parametrize("name", ["magika", "ocr_cls", "silero_vad", "random_forest"])
def test_the_same_samples_every_time_and_none_twice(cases: Path, tmp_path: Path, name: str) -> None:
    one, other = get(name, cases, 40), get(name, tmp_path, 40)
    samples, again = models.load_samples(one.data), models.load_samples(other.data)
    for (feed, label), (same, same_label) in zip(samples, again, strict=True):
        assert label == same_label
        assert all(np.array_equal(feed[key], same[key]) for key in feed)
    seen = {b"".join(value.tobytes() for value in feed.values()) for feed, _ in samples}
    held = {b"".join(value.tobytes() for value in feed.values()) for feed, _ in models.load_samples(one.held_out)}
    assert len(seen) == 40
    assert len(held) == 20
    assert not seen & held


def test_the_recogniser_reads_what_was_written(cases: Path) -> None:
    import onnx

    case = get("ocr_rec", cases, 20)
    (entry,) = onnx.load(case.source).metadata_props
    characters = ["", *entry.value.splitlines(), " "]
    right = 0
    for (_, label), (values,) in zip(models.load_samples(case.held_out), answers(case), strict=True):
        best = values[0].argmax(-1)
        kept = best[np.concatenate([[True], best[1:] != best[:-1]])]
        right += "".join(characters[index] for index in kept) == label
    assert right >= 9


@pytest.mark.skipif(not models.SPEECH.is_dir(), reason="needs recorded speech: Debian's asterisk-core-sounds-en-wav")
def test_speech_is_told_from_noise(cases: Path) -> None:
    case = get("silero_vad", cases, 60)
    labels = [label for _, label in models.load_samples(case.held_out)]
    found = [bool(probability.item() > 0.5) for probability, _ in answers(case)]
    assert 0.3 < np.mean(labels) < 0.7
    assert np.mean([answer == bool(label) for answer, label in zip(found, labels, strict=True)]) > 0.8


def test_a_case_that_was_left_half_made_is_made_again(cases: Path, tmp_path: Path) -> None:
    case = get("random_forest", tmp_path)
    Path(case.data).unlink()
    (Path(case.data).parent / "prepared").unlink()
    assert len(models.load_samples(get("random_forest", tmp_path).data)) == 180


@pytest.mark.parametrize("name", models.NAMES)
def test_every_case_says_what_it_is(name: str) -> None:
    assert models._DEFINITIONS[name].prepare.__doc__
