import errno
import fcntl
import os
from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.system import files
from mopt.system.files import (
    check_file,
    disk_errors,
    exchange,
    files_below,
    link_or_copy,
    make_durable,
    partial_folder,
    partial_prefix,
    remove_stale,
    sync,
    write_whole,
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "full"), "the disk is full: .*out was not written"),
        (OSError(errno.EDQUOT, "quota"), "the disk is full"),
        (PermissionError(errno.EACCES, "no", "/elsewhere/file"), "no permission to write /elsewhere/file"),
        (OSError(errno.EROFS, "read-only"), "no permission to write .*out"),
        (OSError(errno.ENAMETOOLONG, "long"), "the name is too long: out"),
    ],
)
def test_what_the_disk_refuses_is_told(tmp_path, error, message):
    with pytest.raises(UserError, match=message) as caught, disk_errors(tmp_path / "out"):
        raise error
    assert caught.value.hint


def test_hidden_folders_are_not_named_and_bugs_stay_bugs(tmp_path):
    hidden = tmp_path / ".out.partial-1" / "model.onnx"
    with pytest.raises(UserError, match=r"no permission to write .*out$"), disk_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "no", str(hidden))
    with pytest.raises(IsADirectoryError), disk_errors(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")


def test_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "there").touch()
    check_file(tmp_path / "new", force=False)
    check_file(tmp_path / "there", force=True)
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "there", "exists already"),
        (tmp_path / "a" / "b", "no folder"),
    ):
        with pytest.raises(UserError, match=message):
            check_file(path, force=False)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_whole(path, b"one")
    assert path.stat().st_mode & 0o777 == 0o644

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_folder_is_gone_at_the_end_unless_it_was_renamed(tmp_path):
    out = tmp_path / "out"
    with partial_folder(out) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(partial_prefix(out))
    with pytest.raises(ZeroDivisionError), partial_folder(out):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
    with partial_folder(out) as folder:
        (folder / "f").touch()
        folder.rename(out)
    assert [path.name for path in out.iterdir()] == ["f"]


def test_what_a_killed_build_left_is_removed_and_a_running_ones_is_not(tmp_path):
    out = tmp_path / "out"
    stale = tmp_path / f"{partial_prefix(out)}killed"
    other = tmp_path / f"{partial_prefix(tmp_path / 'other')}killed"
    for folder in (stale, other):
        folder.mkdir()
        (folder / "f").touch()
    (tmp_path / f"{partial_prefix(out)}link").symlink_to(other)
    with partial_folder(out) as running:
        (running / "f").touch()
        remove_stale(out)
        assert (running / "f").exists()
    assert not stale.exists()
    assert (other / "f").exists()


def test_a_partial_folder_is_locked(tmp_path):
    with partial_folder(tmp_path / "out") as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)


def test_two_folders_are_swapped_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot swap names")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "gone")


def test_a_second_name_is_a_link_except_for_external_data(tmp_path):
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).write_text(name)
        link_or_copy(tmp_path / name, tmp_path / f"2-{name}")
        assert (tmp_path / f"2-{name}").read_text() == name
    assert (tmp_path / "model.onnx").samefile(tmp_path / "2-model.onnx")
    assert not (tmp_path / "model.onnx.data").samefile(tmp_path / "2-model.onnx.data")


@pytest.mark.parametrize(("code", "copied"), [(errno.EXDEV, True), (errno.EPERM, True), (errno.ENOSPC, False)])
def test_where_links_are_refused_the_file_is_copied_and_a_full_disk_is_full(tmp_path, monkeypatch, code, copied):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("a")
    if copied:
        link_or_copy(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_text() == "a"
    else:
        with pytest.raises(OSError, match="No space"):
            link_or_copy(tmp_path / "a", tmp_path / "b")


def test_every_entry_but_plain_folders_is_listed_and_no_link_is_followed(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "f").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to("nowhere")
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)] == ["a/deep/f", "b", "c"]


@pytest.mark.parametrize("count", [3, 80])
def test_all_files_get_a_mode_and_are_on_the_disk(tmp_path, monkeypatch, count):
    (tmp_path / "deep").mkdir()
    for index in range(count):
        (tmp_path / "deep" / str(index)).touch()
    synced = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path) or sync(path))
    monkeypatch.setattr(files, "_sync_filesystem", lambda _: True)
    make_durable(tmp_path, 0o444)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "deep").iterdir()} == {0o444}
    assert len(synced) == (count + 2 if count < 64 else 0)
