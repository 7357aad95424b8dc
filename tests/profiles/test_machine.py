import os

import psutil
import pytest

from mopt.profiles import machine
from mopt.profiles.machine import _count, _named_clock, caches, clock_ghz, detect, memory_bandwidth, per_cycle


def test_caches_grow_with_their_level():
    found = caches()
    if not found:
        pytest.skip("this system does not tell its caches")
    assert [cache.level for cache in found] == sorted(cache.level for cache in found)
    assert all(cache.bytes >= 4096 and 1 <= cache.shared_by <= (os.cpu_count() or 1) for cache in found)
    assert found[-1].bytes > found[0].bytes


@pytest.mark.parametrize(("listed", "count"), [("0\n", 1), ("0-3", 4), ("0-1,64-65", 4), ("0,2,4-7", 6)])
def test_lists_of_processors_are_counted(listed, count):
    assert _count(listed) == count


def test_the_clock_is_one_that_processors_have():
    found = clock_ghz()
    assert found is not None
    assert 0.5 < found < 7
    if named := _named_clock():
        assert 0.4 < found / named < 2.5, "a chain of more or fewer cycles would be off by a whole factor"


def test_all_cores_take_at_least_the_bandwidth_of_one():
    found = memory_bandwidth(0.1)
    assert 1e8 < found.one <= found.all < 1e13


def test_limits_of_a_container_count(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CONTAINER", tmp_path)
    here = detect()
    assert (here.cores, here.memory_bytes) == (len(psutil.Process().cpu_affinity()), psutil.virtual_memory().total)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert (detect().cores, detect().memory_bytes) == (1, 10**9)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert detect() == here


def test_cores_are_counted_where_a_process_is_bound_to_none(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CONTAINER", tmp_path)
    monkeypatch.delattr(psutil.Process, "cpu_affinity")  # as on macOS
    assert detect().cores == psutil.cpu_count()


@pytest.mark.parametrize(
    ("isa", "fp32", "int8"),
    [
        ((), 8, 16),
        (("avx2",), 32, 64),
        (("avx2", "avx_vnni"), 32, 128),
        (("avx2", "avx512f"), 64, 128),
        (("avx2", "avx512f", "avx512_vnni"), 64, 256),
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), 64, 2048),
        (("asimd",), 16, 16),
        (("asimd", "asimddp"), 16, 64),
        (("asimd", "asimddp", "i8mm", "bf16", "sve"), 32, 256),
    ],
)
def test_wider_and_special_instructions_do_more_in_a_cycle(isa, fp32, int8):
    found = per_cycle(isa)
    assert (found["fp32"], found["int8"]) == (fp32, int8)
    assert set(found) == {"fp32", "fp16", "bf16", "int8"}


def test_this_machine_computes():
    assert per_cycle(detect().isa)["fp32"] >= 8
