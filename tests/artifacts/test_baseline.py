import numpy as np
import pytest

from mopt.artifacts import baseline as module
from mopt.artifacts.baseline import encode_answers, is_baseline, read_baseline, stored_answers, write_baseline
from mopt.errors import UserError
from mopt.model.samples import Sample, write_samples
from tests.cli.results import stored_baseline


def answers(folder, *shapes):
    folder.mkdir()
    random = np.random.default_rng(0)
    outputs = (
        {"y": random.standard_normal(shape).astype(np.float32), "label": np.int64([index])}
        for index, shape in enumerate(shapes)
    )
    return write_samples(folder, (Sample(output) for output in outputs))


def test_answers_come_back_from_the_file_bit_for_bit(tmp_path, store):
    samples = answers(tmp_path / "answers", *[(1, 4)] * 5)
    baseline = stored_baseline().model_copy(update={"answers": encode_answers(samples), "count": 5})
    write_baseline(baseline, tmp_path / "b.json", force=False)
    again = stored_answers(read_baseline(tmp_path / "b.json"), store)
    assert [feed.keys() for feed in again] == [feed.keys() for feed in samples]
    for feed, expected in zip(again, samples, strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(feed[name], value, strict=True)


def test_answers_of_different_shapes_or_too_large_ones_are_not_kept(tmp_path, store, monkeypatch):
    assert encode_answers(answers(tmp_path / "odd", (1, 4), (1, 5))) == ""
    monkeypatch.setattr(module, "_MOST_OUTPUT_BYTES", 10)
    assert encode_answers(answers(tmp_path / "even", (1, 4), (1, 4))) == ""
    assert stored_answers(stored_baseline(), store) is None


def test_answers_that_are_damaged_are_told(store):
    with pytest.raises(UserError, match="damaged"):
        stored_answers(stored_baseline().model_copy(update={"answers": "AAAA"}), store)


def test_a_file_is_written_once_and_again_with_force(tmp_path):
    path = tmp_path / "b.json"
    write_baseline(stored_baseline(), path, force=False)
    assert is_baseline(str(path))
    assert not is_baseline(str(tmp_path / "gone.json"))
    with pytest.raises(UserError, match="exists already"):
        write_baseline(stored_baseline(), path, force=False)
    write_baseline(stored_baseline().model_copy(update={"name": "newer"}), path, force=True)
    assert read_baseline(path).name == "newer"


@pytest.mark.parametrize(
    ("text", "message"), [("{}", "is no baseline: created: Field required"), ("no json", "is no baseline: : Invalid JSON")]
)
def test_what_is_no_baseline_is_told(tmp_path, text, message):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_baseline(tmp_path / "b.json")
    assert "mopt baseline set" in caught.value.hint
