import os

from mopt.system import memory
from mopt.system.memory import peak_memory


def test_peak_memory_counts_what_was_touched():
    assert peak_memory(os.getpid()) > 10_000_000
    assert peak_memory(2**22 + 1) == 0


def test_peak_memory_without_proc_is_the_processs_own(monkeypatch, tmp_path):
    before = peak_memory(os.getpid())
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert 0.99 * before <= peak_memory(os.getpid()), "it may count the process that started this one"
    assert peak_memory(os.getppid()) == 0
