"""Where the model will run: one TOML file for each target in ``hardware/``."""

from __future__ import annotations

__all__ = ["Target", "check_measurable", "load_target", "target_names"]

import tomllib
from pathlib import Path
from typing import Literal

import pydantic

from mopt.artifacts.manifest import Machine
from mopt.errors import UserError
from mopt.registry import nearest

_FOLDER = Path(__file__).parent / "hardware"


class Target(pydantic.BaseModel):
    """A kind of machine.

    ``isa`` lists the instruction set extensions that decide which candidate wins; ``detect`` says that they are those of the
    machine that builds.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    device: Literal["cpu"]
    detect: bool = False
    isa: tuple[str, ...] = ()
    runtimes: tuple[str, ...]

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
    if name not in target_names():
        raise UserError(f"unknown target: {name}", nearest(name, target_names()))
    target = Target(name=name, **tomllib.loads((_FOLDER / f"{name}.toml").read_text()))
    return target.model_copy(update={"isa": machine.isa}) if target.detect else target


def check_measurable(target: Target, machine: Machine) -> None:
    """Refuse a target whose speed this machine cannot measure.

    Raises:
        UserError: When an extension that decides is here and not there, or the other way round.
    """
    here, there = set(machine.isa), set(target.isa)
    hint = "build on a machine of that kind, or use --target cpu for this one"
    if missing := sorted(there - here):
        raise UserError(f"target {target.name} has {', '.join(missing)} and this machine does not", hint)
    if beyond := sorted(here - there):
        raise UserError(f"this machine has {', '.join(beyond)} and target {target.name} does not", hint)
