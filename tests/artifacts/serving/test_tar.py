import os
import tarfile

import pytest

from mopt.artifacts.serving._tar import unpack, write_tar


def test_the_same_files_make_the_same_archive_whenever_and_by_whomever(tmp_path):
    archives = []
    for index in range(2):
        folder = tmp_path / str(index)
        (folder / "code").mkdir(parents=True)
        names = ["b", "a", "code/c"]
        for name in names if index else reversed(names):
            (folder / name).write_bytes(name.encode() * 1000)
            os.utime(folder / name, (index * 1e6, index * 1e6))
            (folder / name).chmod(0o600 + index)
        archives.append(tmp_path / f"{index}.tar.gz")
        write_tar(archives[-1], folder)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as archive:
        assert archive.getnames() == ["a", "b", "code/c"]
        assert {(entry.uid, entry.gid, entry.mtime, entry.mode) for entry in archive} == {(0, 0, 0, 0o644)}


def test_it_unpacks_to_what_it_was(tmp_path):
    (tmp_path / "content" / "1").mkdir(parents=True)
    (tmp_path / "content" / "1" / "model").write_bytes(bytes(range(256)) * 999)
    write_tar(tmp_path / "x.tar.gz", tmp_path / "content")
    unpack(tmp_path / "x.tar.gz", tmp_path / "out")
    assert (tmp_path / "out" / "1" / "model").read_bytes() == bytes(range(256)) * 999


def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(tarfile.FilterError):
        unpack(tmp_path / "x.tar.gz", tmp_path / "out")
    assert not (tmp_path / "outside").exists()
