import ml_dtypes
import numpy as np
import pytest

from mopt.model.samples import Sample, Samples, batch_feeds, chunks, groups_of, read_feed, write_feed, write_samples
from mopt.model.signature import Signature, TensorSpec

ARRAYS = {
    "file": np.ones((1, 2), np.float32),
    "allow_pickle": np.arange(6, dtype=np.int64).reshape(1, 2, 3),
    "a/../b:0": np.array(3, np.uint8),
    "/etc/passwd": np.zeros((1, 0, 4), np.float64),
    "x!y\0%": np.array([[1.5, -2]], ml_dtypes.bfloat16),
    "": np.array([[True]]),
    "名前.npy": np.array([[1]], np.int8),
    "f8": np.array([1.5], ml_dtypes.float8_e4m3fn),
}


def test_any_name_and_type_comes_back(tmp_path):
    write_feed(tmp_path / "feed.npz", ARRAYS)
    back = read_feed(tmp_path / "feed.npz")
    assert list(back) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert back[name].dtype == expected.dtype
        assert back[name].shape == expected.shape
        assert back[name].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "array",
    [np.array([["naïve", "b\n"]], object), np.array([["naïve", "b\n"]]), np.array([["naïve".encode(), b"b\n"]])],
    ids=["object", "unicode", "bytes"],
)
def test_strings_come_back_without_pickle(tmp_path, array):
    write_feed(tmp_path / "feed.npz", {"text": array})
    back = read_feed(tmp_path / "feed.npz")["text"]
    assert back.tolist() == [["naïve", "b\n"]]
    assert back.dtype == object


def test_a_plain_name_is_plain_for_numpy_too(tmp_path):
    write_feed(tmp_path / "feed.npz", {"input_ids": np.array([[7]])})
    with np.load(tmp_path / "feed.npz", allow_pickle=False) as arrays:
        assert arrays["input_ids"].tolist() == [[7]]


def test_equal_samples_have_equal_digests_and_others_do_not(tmp_path):
    def digest(name, value, label, group=None):
        (tmp_path / name).mkdir()
        return write_samples(tmp_path / name, [Sample({"x": np.array([[value]])}, label, "s", group)]).digest

    assert digest("a", 1.0, 0) == digest("b", 1.0, 0)
    assert digest("c", 2.0, 0) != digest("d", 1.0, 0)
    assert digest("e", 1.0, 0, "g") not in (digest("f", 1.0, 0), digest("g", 1.0, 0, "h"))


def test_samples_are_read_one_by_one_with_labels_and_names(tmp_path):
    rows = [
        Sample({"x": np.full((1, 3), index, np.float32)}, np.int64(index), f"row {index}", "ab"[index % 2])
        for index in range(5)
    ]
    written = write_samples(tmp_path, rows, synthetic=True)
    samples = Samples.at(tmp_path)
    assert samples == written
    assert len(samples) == 5
    assert samples.synthetic
    assert samples.labels == [0, 1, 2, 3, 4]
    assert samples.names[3] == "row 3"
    assert samples.groups == ["a", "b", "a", "b", "a"]
    assert samples.first(2).groups == ["a", "b"]
    assert [feed["x"][0, 0] for feed in samples] == [0, 1, 2, 3, 4]


def test_no_label_and_no_group_at_all_are_none(tmp_path):
    written = write_samples(tmp_path, [Sample({"x": np.ones((1,))})])
    assert written.labels is None
    assert written.groups is None


SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "width")), TensorSpec(name="rate", dtype="int64", shape=())),
    outputs=(),
    batch_axes={"x": 0},
)


def samples(folder, widths):
    feeds = (
        {"x": np.full((1, width), index, np.float32), "rate": np.array(16, np.int64)} for index, width in enumerate(widths)
    )
    return write_samples(folder, (Sample(feed) for feed in feeds))


def test_batches_are_made_of_samples_of_the_most_common_shape(tmp_path):
    feeds = batch_feeds(SIGNATURE, samples(tmp_path, [3, 5, 5, 4, 5]), 2)
    assert len(feeds) == 4
    assert all(feed["x"].shape == (2, 5) for feed in feeds)
    assert {int(value) for feed in feeds for value in feed["x"][:, 0]} == {1, 2, 4}
    assert all(feed["rate"].shape == () for feed in feeds)


def test_only_samples_that_can_be_stacked_come_together(tmp_path):
    shared = SIGNATURE.model_copy(update={"batch_axes": {}})
    made = samples(tmp_path, [3, 3, 3, 5, 3])
    assert [len(chunk) for chunk in chunks(SIGNATURE, made, 2)] == [2, 1, 1, 1]
    assert [len(chunk) for chunk in chunks(shared, made, 1)] == [1] * 5
    other = [{**feed, "rate": np.array(index)} for index, feed in enumerate(made)]
    assert [len(chunk) for chunk in chunks(SIGNATURE, other, 2)] == [1] * 5


def test_a_witness_shows_where_axes_have_length_one(tmp_path):
    made = samples(tmp_path, [3, 1, 5, 1])
    assert made.witnesses == [0, 1]
    assert made.first(1).witnesses == [0]


def test_samples_whose_answers_come_as_one_are_one_witness(tmp_path):
    made = samples(tmp_path, [3] * 5)
    output = TensorSpec(name="y", dtype="float32", shape=(4,))
    as_one = SIGNATURE.model_copy(update={"outputs": (output,), "batch_size": 2})
    assert groups_of(SIGNATURE, made) is None
    assert groups_of(as_one, made) == ["0", "0", "1", "1", "2"]


def test_a_model_that_does_not_batch_gets_single_samples(tmp_path):
    solo = SIGNATURE.model_copy(update={"batch_axes": {}})
    feeds = batch_feeds(solo, samples(tmp_path, [3, 5]), 1)
    assert [feed["x"].shape for feed in feeds] == [(1, 3), (1, 5)]
