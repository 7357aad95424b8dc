import pytest

from mopt.artifacts.manifest import Machine
from mopt.errors import UserError
from mopt.profiles.machine import FEATURES, detect
from mopt.profiles.target import check_measurable, load_target, target_names
from mopt.registry import names


def machine(*isa: str) -> Machine:
    return Machine(cpu="test", isa=isa, cores=2, memory_bytes=1 << 34, system="Linux", python="3.11")


@pytest.mark.parametrize("name", target_names())
def test_every_target_file_is_sound(name):
    target = load_target(name, machine("avx2"))
    assert target.description
    assert set(target.isa) <= set(FEATURES)
    assert set(target.runtimes) <= set(names("runtimes"))


def test_the_detected_target_is_this_machine():
    here = detect()
    assert load_target("cpu", here).isa == here.isa
    check_measurable(load_target("cpu", here), here)


@pytest.mark.parametrize(
    ("isa", "words"), [(("avx2",), "avx512_vnni"), (("avx2", "avx512f", "avx512_vnni", "amx_int8"), "amx_int8")]
)
def test_a_target_that_cannot_be_measured_here_is_refused(isa, words):
    here = machine(*isa)
    with pytest.raises(UserError, match=words):
        check_measurable(load_target("x86-avx512-vnni", here), here)


def test_unknown_target_names_the_nearest():
    with pytest.raises(UserError) as caught:
        load_target("x86-avx", machine())
    assert "x86-a" in caught.value.hint


def test_a_cpu_without_vnni_saturates():
    assert not load_target("x86-avx2", machine()).integer_dot
    assert load_target("x86-avx512-vnni", machine()).integer_dot
    assert load_target("x86-amx", machine()).bfloat16
