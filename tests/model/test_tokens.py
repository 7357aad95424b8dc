import numpy as np
import pytest

from mopt.model.tokens import TokenWindows, write_windows


def test_windows_are_read_as_they_were_written(tmp_path):
    tokens = np.arange(12).reshape(3, 4)
    windows = write_windows(tmp_path, tokens)
    assert (windows.count, windows.length) == (3, 4)
    assert windows.load().dtype == np.int32
    np.testing.assert_array_equal(windows.load(), tokens)


def test_their_digest_is_of_the_tokens(tmp_path):
    digests = set()
    for index, first in enumerate((0, 0, 1)):
        folder = tmp_path / str(index)
        folder.mkdir()
        digests.add(write_windows(folder, np.full((2, 3), first, np.int32)).digest)
    assert len(digests) == 2


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "windows.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        TokenWindows(tmp_path, "", 1, 1).load()
