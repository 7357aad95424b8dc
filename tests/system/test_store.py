import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mopt.system import store as module
from mopt.system.store import Store

MAKE = """
import os, sys, time
from pathlib import Path
from mopt.system.store import Store
root, log, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def make(folder):
    with open(log, "a") as stream:
        stream.write("made\\n")
    (folder / "half").write_text("x")
    time.sleep(pause)
    (folder / "whole").write_text("y")
there = []
with Store(root).entry("passes", {"a": 1}) as entry:
    there = entry.scratch is None
    there or make(entry.scratch)
print(there, sorted(path.name for path in entry.folder.iterdir()))
"""


def start(root, log, pause):
    return subprocess.Popen(
        [sys.executable, "-c", MAKE, str(root), str(log), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])},
    )


def test_two_processes_that_want_one_entry_make_it_once(tmp_path):
    children = [start(tmp_path / "cache", tmp_path / "log", 0.8) for _ in range(3)]
    answers = [child.communicate(timeout=60)[0] for child in children]
    assert (tmp_path / "log").read_text() == "made\n"
    assert sorted(answer.split()[0] for answer in answers) == ["False", "True", "True"]
    assert {answer.split(" ", 1)[1] for answer in answers} == {"['half', 'key.json', 'whole']\n"}


def test_a_killed_maker_leaves_no_entry_and_the_next_one_succeeds(tmp_path):
    store = Store(tmp_path / "cache")
    child = start(store.root, tmp_path / "log", 60)
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()
    assert store.find("passes", {"a": 1}) is None
    with store.entry("passes", {"a": 1}) as entry:
        there = entry.scratch is None
        if entry.scratch is not None:
            (entry.scratch / "whole").write_text("y")
    folder = entry.folder
    assert not there
    assert sorted(path.name for path in folder.iterdir()) == ["key.json", "whole"]
    assert list((store.root / "scratch").iterdir()) == []


def test_a_maker_that_raises_leaves_nothing(store):
    def make(folder):
        (folder / "half").write_text("x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.get("passes", {"a": 1}, make)
    assert store.find("passes", {"a": 1}) is None
    assert list((store.root / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "key"),
    [("passes", {"a": 2}), ("passes", {"a": "1"}), ("passes", {"a": 1, "b": None}), ("trials", {"a": 1})],
    ids=["value", "type", "more", "kind"],
)
def test_any_difference_of_the_key_is_a_miss(store, kind, key):
    store.get("passes", {"a": 1}, lambda folder: None)
    assert store.find("passes", {"a": 1}) is not None
    assert store.find(kind, key) is None


def test_the_order_of_the_key_does_not_matter(store):
    store.get("passes", {"a": 1, "b": 2}, lambda folder: None)
    assert store.find("passes", {"b": 2, "a": 1}) is not None


def test_files_of_an_entry_cannot_be_changed_by_accident(store):
    folder = store.get("passes", {"a": 1}, lambda folder: (folder / "m").write_text("x") and None)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}


def test_two_threads_make_two_entries_at_a_time(store):
    both = threading.Barrier(2, timeout=20)
    threads = [
        threading.Thread(target=store.get, args=("passes", {"a": index}, lambda folder: both.wait() and None))
        for index in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not both.broken


def test_scratch_folders_end_with_their_use_and_those_of_killed_builds_with_the_next(store):
    with store.scratch() as running:
        left = running.with_name(".work.partial-dead")
        left.mkdir()
        (left / "weights").write_text("x" * 1000)
        with store.scratch() as other:
            assert other != running
            assert running.is_dir()
            assert not left.exists()
    assert list((store.root / "scratch").iterdir()) == []


def test_sizes_and_clear(store):
    assert store.sizes() == {}
    assert store.clear() == 0
    store.get("passes", {"a": 1}, lambda folder: (folder / "m").write_text("x" * 1000) and None)
    count, size = store.sizes()["passes"]
    assert count == 1
    assert 1000 < size < 1100
    assert store.clear() == size
    assert store.sizes() == {}
