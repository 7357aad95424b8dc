"""Where the model will run: one TOML file for each target in ``hardware/``."""

from __future__ import annotations

__all__ = ["Figure", "Gpu", "Hardware", "Target", "check_measurable", "load_target", "target_names"]

import datetime
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from mopt.errors import UserError
from mopt.records.measurement import Machine
from mopt.system.nvidia import Library
from mopt.system.plugins import nearest
from mopt.system.schema import Schema

_FOLDER = Path(__file__).parent / "hardware"


class Figure(Schema):
    """A number with its unit, where it was read, and when."""

    value: Annotated[float, pydantic.Field(gt=0)]
    unit: str
    source: Annotated[str, pydantic.Field(min_length=8)]
    date: datetime.date
    note: str = ""


class Hardware(Schema):
    """What a machine that users rent can do, as far as latency and money depend on it.

    ``clock`` is sustained with all cores busy; ``bandwidth`` is what the whole rented machine may take of the memory;
    ``per_cycle`` are additions and multiplications of one physical core in a cycle, by arithmetic.
    """

    cpu: str
    vendor: str
    cores: Figure
    vcpus: Figure
    clock: Figure
    memory: Figure
    bandwidth: Figure
    cache: Figure
    per_cycle: dict[Literal["fp32", "bf16", "fp16", "int8"], Figure]
    price: Figure
    region: str
    power: Figure | None = None

    @pydantic.model_validator(mode="after")
    def _units(self) -> Hardware:
        units = {
            "cores": "cores", "vcpus": "vCPUs", "clock": "GHz", "memory": "GiB", "bandwidth": "GB/s", "cache": "MiB",
            "price": "USD/h", "power": "W",
        }  # fmt: skip
        for name, unit in units.items():
            figure = getattr(self, name)
            if figure is not None and figure.unit != unit:
                raise ValueError(f"{name} is in {unit}, not in {figure.unit}")
        for arithmetic, figure in self.per_cycle.items():
            if figure.unit != "FLOP/cycle/core":
                raise ValueError(f"per_cycle.{arithmetic} is in FLOP/cycle/core, not in {figure.unit}")
        if "fp32" not in self.per_cycle:
            raise ValueError("per_cycle.fp32 is missing")
        return self


class Gpu(Schema):
    """What an NVIDIA GPU can do; ``peak`` is by type, dense, as NVIDIA states it."""

    chip: str
    capability: Annotated[str, pydantic.Field(pattern=r"^[0-9]+\.[0-9]$")]
    """Compute capability."""
    library: Library
    """TensorRT for RTX where it serves, ``tensorrt`` where it does not."""
    memory: Figure
    bandwidth: Figure
    power: Figure
    slices: Figure
    """How many MIG instances it can be divided into; 1 where it cannot."""
    peak: dict[Literal["fp32", "fp16", "bf16", "int8", "fp8", "int4"], Figure]
    price: Figure | None = None
    """For an hour, on demand; None where nobody rents it out by the hour."""

    @pydantic.model_validator(mode="after")
    def _units(self) -> Gpu:
        units = {"memory": "GiB", "bandwidth": "GB/s", "power": "W", "slices": "MIG", "price": "USD/h"}
        for name, unit in units.items():
            figure = getattr(self, name)
            if figure is not None and figure.unit != unit:
                raise ValueError(f"{name} is in {unit}, not in {figure.unit}")
        for kind, figure in self.peak.items():
            unit = "TOPS" if kind.startswith("int") else "TFLOPS"
            if figure.unit != unit:
                raise ValueError(f"peak.{kind} is in {unit}, not in {figure.unit}")
        return self


class Target(Schema):
    """A kind of machine.

    ``isa`` lists the instruction set extensions that decide which candidate wins; ``detect`` says that they are those of the
    machine that builds.
    """

    name: str
    description: str
    device: Literal["cpu", "gpu"]
    detect: bool = False
    isa: tuple[str, ...] = ()
    hardware: Hardware | None = None
    """Of machines that can be rented; None for a mere kind of CPU."""
    gpu: Gpu | None = None
    """Of a GPU that engines are built for."""

    @property
    def compute_device(self) -> Literal["cpu", "gpu"]:
        """What candidates run on: the GPU that engines are built for, else the CPU."""
        return "gpu" if self.gpu is not None else "cpu"

    @property
    def integer_dot(self) -> bool:
        """Whether 8-bit products accumulate into 32 bits without saturating in between."""
        return bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(self.isa))

    @property
    def bfloat16(self) -> bool:
        """Whether it has BF16 arithmetic."""
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(self.isa))

    @property
    def arm(self) -> bool:
        """Whether it is an ARM CPU."""
        return "asimd" in self.isa


def target_names() -> tuple[str, ...]:
    """Return the names of all targets."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_target(name: str, machine: Machine) -> Target:
    """Read a target; the instruction sets of a detected one are those of ``machine``.

    Raises:
        UserError: When there is no such target.
    """
    if name not in target_names() and f"nvidia-{name}" in target_names():
        name = f"nvidia-{name}"
    if name not in target_names():
        raise UserError(f"unknown target: {name}", nearest(name, target_names()))
    target = Target(name=name, **tomllib.loads((_FOLDER / f"{name}.toml").read_text()))
    return target.model_copy(update={"isa": machine.isa}) if target.detect else target


def check_measurable(target: Target, machine: Machine) -> None:
    """Refuse a target whose speed this machine cannot measure.

    Raises:
        UserError: When an extension that decides is here and not there, or the other way round, or when it is a machine with
            a GPU; engines are built for the GPU itself, which need not be here.
    """
    if target.gpu is not None:
        return
    if target.device == "gpu":
        raise UserError(f"target {target.name} is a machine with a GPU", "build for the GPU itself, such as --target nvidia-l4")
    here, there = set(machine.isa), set(target.isa)
    hint = "build on a machine of that kind, or use --target cpu for this one"
    if missing := sorted(there - here):
        raise UserError(f"target {target.name} has {', '.join(missing)} and this machine does not", hint)
    if beyond := sorted(here - there):
        raise UserError(f"this machine has {', '.join(beyond)} and target {target.name} does not", hint)
