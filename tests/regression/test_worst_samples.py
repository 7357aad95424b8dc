import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mopt.datasets.spec import DataSpec
from mopt.evaluators.metrics.accuracy import Accuracy
from mopt.evaluators.metrics.mae import Mae
from mopt.model.samples import Sample, Samples, read_feed, write_samples
from mopt.regression.models import OutputRuns
from mopt.regression.worst_samples import largest_regressions

SPEC = DataSpec(path="d")


def written(folder: Path, feeds, labels=None) -> Samples:
    folder.mkdir()
    labels = labels or [None] * len(feeds)
    named = zip(feeds, labels, strict=True)
    return write_samples(folder, (Sample(feed, label, f"photo {index}/a.png") for index, (feed, label) in enumerate(named)))


def runs(folder: Path, scores) -> OutputRuns:
    return OutputRuns((written(folder, [{"p": np.float32([row])} for row in scores]),))


GOOD = [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]
NEW = [[0.9, 0.1], [0.1, 0.9], [0.45, 0.55], [0.8, 0.2]]


@pytest.fixture
def samples(tmp_path):
    return written(tmp_path / "samples", [{"x": np.float32([[index]])} for index in range(4)], [0, 0, 0, 0])


def test_those_that_lose_come_first_and_of_equal_ones_the_furthest_from_the_baseline(tmp_path, samples):
    worst = largest_regressions(Accuracy(), samples, runs(tmp_path / "new", NEW), runs(tmp_path / "old", GOOD), SPEC, tmp_path)
    assert [sample.index for sample in worst] == [1, 2, 3], "what answers the same is not among them"
    assert [sample.loss for sample in worst] == [1.0, 1.0, 0.0]
    first = worst[0]
    assert (first.label, first.candidate, first.baseline) == ("0", "p: class 1 (0.9)", "p: class 0 (0.9)")
    assert first.distance > worst[1].distance > 0


def test_inputs_and_both_answers_are_saved_under_a_name_that_is_safe(tmp_path, samples):
    out = tmp_path / "out"
    worst = largest_regressions(Accuracy(), samples, runs(tmp_path / "new", NEW), runs(tmp_path / "old", GOOD), SPEC, out)
    assert worst[0].folder == "worst/00-photo-1-a.png"
    saved = {name: read_feed(out / worst[0].folder / f"{name}.npz") for name in ("inputs", "candidate", "baseline")}
    assert saved["inputs"]["x"].tolist() == [[1]]
    np.testing.assert_array_equal(saved["candidate"]["p"], np.float32([NEW[1]]))
    again = largest_regressions(Accuracy(), samples, runs(tmp_path / "n2", NEW), runs(tmp_path / "o2", GOOD), SPEC, None)
    assert again[0].folder == ""


def test_of_an_error_more_is_worse_and_without_a_baseline_nothing_is_shown(tmp_path):
    samples = written(tmp_path / "samples", [{"x": np.float32([[0]])}] * 2, [1.0, 1.0])
    old, new = runs(tmp_path / "old", [[1.0], [3.0]]), runs(tmp_path / "new", [[2.5], [1.0]])
    worst = largest_regressions(Mae(), samples, new, old, SPEC, None)
    assert (worst[0].index, worst[0].loss) == (0, 1.5)
    assert largest_regressions(Mae(), samples, new, None, SPEC, None) == ()


def shown(tmp_path, feed, spec=SPEC):
    samples = written(tmp_path / "samples", [feed], [0])
    (worst,) = largest_regressions(
        Accuracy(), samples, runs(tmp_path / "new", NEW[1:2]), runs(tmp_path / "old", GOOD[:1]), spec, None
    )
    return worst


@pytest.mark.parametrize("shape", [(1, 3, 16, 12), (1, 16, 12, 3)], ids=["nchw", "nhwc"])
def test_a_picture_is_shown(tmp_path, shape):
    picture = shown(tmp_path, {"image": np.random.default_rng(0).random(shape, np.float32)}).picture
    assert picture.startswith("data:image/png;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    assert (image.size, image.mode) == ((12, 16), "RGB")


def test_what_normalizing_did_to_a_picture_is_undone(tmp_path):
    pixels = np.full((1, 3, 16, 16), 102, np.float32)
    spec = DataSpec.model_validate({"path": "d", "image": {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3}})
    picture = shown(tmp_path, {"anything": (pixels / 255 - 0.5) / 0.25}, spec).picture
    image = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    assert image.getpixel((3, 3)) == (102, 102, 102)


@pytest.mark.parametrize(
    "feed",
    [
        {"table": np.ones((1, 3, 16, 16), np.float32)},
        {"image": np.ones((1, 5, 16, 16), np.float32)},
        {"image": np.ones((1, 9))},
    ],
)
def test_what_is_no_picture_is_not_shown_as_one(tmp_path, feed):
    assert shown(tmp_path, feed).picture == ""


def test_words_are_shown_as_they_are(tmp_path):
    assert shown(tmp_path, {"text": np.array([["a cat", "a dog"]], object)}).text == "a cat | a dog"
