import datetime
from urllib.parse import urlsplit

import pytest

from mopt.errors import UserError
from mopt.profiles.machine import FEATURES, detect, per_cycle
from mopt.profiles.target import Figure, Gpu, Hardware, Target, check_measurable, load_target, target_names
from mopt.records.measurement import Machine


def machine(*isa: str) -> Machine:
    return Machine(cpu="test", isa=isa, cores=2, memory_bytes=1 << 34, system="Linux", python="3.11")


def figures(hardware: Hardware) -> dict[str, Figure]:
    given = {name: getattr(hardware, name) for name in Hardware.model_fields}
    return {name: value for name, value in given.items() if isinstance(value, Figure)} | hardware.per_cycle


RENTED = {
    target.name: target.hardware
    for target in (load_target(name, machine()) for name in target_names())
    if target.hardware is not None
}
RENTED_CPUS = [name for name in RENTED if load_target(name, machine()).device == "cpu"]


@pytest.mark.parametrize("name", target_names())
def test_every_target_file_is_sound(name):
    target = load_target(name, machine("avx2"))
    assert target.description
    assert set(target.isa) <= set(FEATURES)


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


@pytest.mark.parametrize("name", RENTED)
def test_every_figure_of_a_rented_machine_says_where_and_when_it_was_read(name):
    for what, figure in figures(RENTED[name]).items():
        address = urlsplit(figure.source)
        assert address.scheme == "https", what
        assert "." in address.netloc, what
        assert datetime.date(2020, 1, 1) <= figure.date <= datetime.date.today(), what


@pytest.mark.parametrize("name", RENTED_CPUS)
def test_a_rented_cpu_is_possible(name):
    target, hardware = load_target(name, machine()), RENTED[name]
    assert hardware.cores.value in (hardware.vcpus.value, hardware.vcpus.value / 2)
    assert 50 < hardware.cores.value * hardware.clock.value * hardware.per_cycle["fp32"].value < 5000
    assert 1.5 < hardware.clock.value < 6
    assert 1 < hardware.bandwidth.value / hardware.cores.value < 50
    assert 0.2 < hardware.cache.value / hardware.cores.value < 20
    assert 0.001 < hardware.price.value / hardware.vcpus.value < 0.2
    assert hardware.per_cycle["int8"].value >= hardware.per_cycle["fp32"].value
    assert not target.bfloat16 or hardware.per_cycle["bf16"].value > hardware.per_cycle["fp32"].value


@pytest.mark.parametrize("name", RENTED_CPUS)
def test_a_rented_cpu_does_no_more_in_a_cycle_than_its_instruction_sets_allow(name):
    target = load_target(name, machine())
    most = per_cycle(target.isa)
    for arithmetic in {"fp32", "bf16", "int8"} & RENTED[name].per_cycle.keys():
        assert RENTED[name].per_cycle[arithmetic].value <= most[arithmetic], arithmetic


@pytest.mark.parametrize("name", RENTED_CPUS)
def test_a_rented_cpu_says_whether_a_vcpu_is_a_core(name):
    hardware = RENTED[name]
    words = "half" if hardware.cores.value < hardware.vcpus.value else "core"
    assert words in hardware.cores.note


def test_rented_cpus_are_of_every_kind_that_decides_which_candidate_wins():
    targets = [load_target(name, machine()) for name in RENTED_CPUS]
    assert len(targets) >= 12
    assert {kind(target) for target in targets} == {"ARM with I8MM", "ARM", "x86", "x86 with VNNI", "x86 with AMX"}


def kind(target: Target) -> str:
    if target.arm:
        return "ARM with I8MM" if "i8mm" in target.isa else "ARM"
    return "x86 with AMX" if "amx_int8" in target.isa else "x86 with VNNI" if target.integer_dot else "x86"


def test_a_gpu_cannot_be_measured():
    with pytest.raises(UserError, match="aws-g6-xlarge is a machine with a GPU") as caught:
        check_measurable(load_target("aws-g6-xlarge", machine()), machine())
    assert "nvidia-l4" in caught.value.hint


GPUS = {target.name: target.gpu for name in target_names() if (target := load_target(name, machine())).gpu is not None}


def test_every_gpu_that_users_serve_on_is_there():
    wanted = ("t4", "l4", "l40s", "a10g", "a100-40", "a100-80", "h100", "h100-pcie", "h200", "b200", "rtx-3090", "rtx-4090",
              "rtx-5090", "rtx-6000-ada", "orin")  # fmt: skip
    assert {f"nvidia-{name}" for name in wanted} == GPUS.keys()


@pytest.mark.parametrize("name", GPUS)
def test_figures_of_a_gpu_have_a_source_and_fit_together(name):
    gpu = GPUS[name]
    figures = [gpu.memory, gpu.bandwidth, gpu.power, gpu.slices, *gpu.peak.values(), *([gpu.price] if gpu.price else [])]
    assert all(urlsplit(figure.source).scheme == "https" for figure in figures)
    assert all(datetime.date(2019, 1, 1) <= figure.date <= datetime.date.today() for figure in figures)
    assert gpu.peak["fp32"].value < gpu.peak["fp16"].value <= gpu.peak["int8"].value
    assert ("fp8" in gpu.peak) == (float(gpu.capability) >= 8.9), "FP8 begins with Ada"
    assert (gpu.library == "tensorrt_rtx") == (gpu.capability in ("7.5", "8.0", "8.6", "8.9", "12.0"))


def test_a_gpu_needs_no_prefix():
    assert load_target("rtx-4090", machine()).name == "nvidia-rtx-4090"
    assert load_target("h100", machine()).gpu.capability == "9.0"
    check_measurable(load_target("h100", machine()), machine())


@pytest.mark.parametrize(("field", "unit"), [("memory", "GB"), ("bandwidth", "GiB/s"), ("power", "kW"), ("price", "EUR/h")])
def test_a_figure_of_a_gpu_in_another_unit_is_refused(field, unit):
    gpu = GPUS["nvidia-l4"].model_dump()
    gpu[field]["unit"] = unit
    with pytest.raises(ValueError, match=f"{field} is in"):
        Gpu(**gpu)
    gpu = GPUS["nvidia-l4"].model_dump()
    gpu["peak"]["int8"]["unit"] = "TFLOPS"
    with pytest.raises(ValueError, match=r"peak.int8 is in TOPS"):
        Gpu(**gpu)


@pytest.mark.parametrize(("field", "unit"), [("price", "EUR/h"), ("memory", "GB"), ("clock", "MHz"), ("power", "kW")])
def test_a_figure_in_another_unit_is_refused(field, unit):
    hardware = RENTED["aws-c7i-2xlarge"].model_dump()
    hardware[field]["unit"] = unit
    with pytest.raises(ValueError, match=f"{field} is in"):
        Hardware(**hardware)
