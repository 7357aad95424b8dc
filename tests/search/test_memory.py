import pytest

from mopt.errors import Rejection
from mopt.model.files import Model
from mopt.records.measurement import Machine
from mopt.search.memory import export_budget, memory_budget, memory_groups, reject_oversized
from tests.search.cases import entry


@pytest.mark.parametrize(
    ("memory", "size", "groups"),
    [(64e9, 1e8, [["a", "b", "c"]]), (2e9, 5e8, [["a"], ["b"], ["c"]]), (64e9, 3e9, [["a"], ["b"], ["c"]])],
)
def test_sessions_are_opened_together_only_as_far_as_memory_allows(tmp_path, memory, size, groups):
    with (tmp_path / "model.onnx").open("wb") as stream:
        stream.truncate(int(size))
    machine = Machine(cpu="", isa=(), cores=2, memory_bytes=int(memory), system="", python="")
    memory = memory_budget(None, machine, Model("onnx", tmp_path, ""))
    entries = [entry(name, int(size)) for name in "abc"]
    found = memory_groups(memory, entry("reference", int(size)), entries)
    assert [[one.record.name for one in group] for group in found] == groups


def test_what_does_not_fit_beside_the_reference_is_rejected_and_says_so():
    fits, too_large = entry("a", int(0.6e9)), entry("b", int(2.4e9))
    found = reject_oversized(int(4.8e9), entry("reference", int(2.4e9)), [fits, too_large])
    assert found[0] == fits
    assert found[1].record.outcome.rejection is Rejection.MEMORY
    assert found[1].record.outcome.reason == "would take 5.6 GB of memory beside the reference, and 4.8 GB are allowed"


def test_a_limit_of_the_user_is_the_limit_and_a_large_model_gets_just_under_twice_its_size(tmp_path):
    machine = Machine(cpu="", isa=(), cores=2, memory_bytes=64_000_000_000, system="", python="")
    model = Model("onnx", tmp_path, "")
    assert memory_budget(123, machine, model) == 123
    assert export_budget(123, machine) == 2**30, "what libraries need to export anything at all"
    assert export_budget(2**31, machine) == 2**31
    assert export_budget(None, machine) == 51_200_000_000
    for size, budget in ((10**9, 32 * 10**9), (10 * 10**9, 18_500_000_000), (40 * 10**9, 32 * 10**9)):
        with (tmp_path / "model.onnx").open("wb") as stream:
            stream.truncate(size)
        assert memory_budget(None, machine, model) == budget


def test_one_that_is_out_already_keeps_its_reason():
    out = entry("a", int(9e9)).reject(Rejection.FAILED, "it broke")
    assert reject_oversized(int(1e9), entry("reference", 1), [out]) == [out]
