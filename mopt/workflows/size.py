"""Which machines, how many, with which settings, for how much money."""

from __future__ import annotations

__all__ = ["Subject", "read_subject", "size"]

import dataclasses
import fnmatch
import math
from collections.abc import Sequence
from pathlib import Path

import pydantic

from mopt.artifacts.artifact import FILE_NAME, read_manifest
from mopt.capacity.batching import cheapest, holds_most, resize
from mopt.capacity.measure import without_layouts
from mopt.capacity.recommendation import HOURS_PER_MONTH, Wish, autoscaling, cost_curves, gpu_verdict, p99_curves, recommended
from mopt.capacity.roofline import Peak, measure_peak, move, peak_of
from mopt.errors import UserError
from mopt.profiles.machine import detect
from mopt.profiles.target import Target, load_target, target_names
from mopt.progress import Progress, Silent
from mopt.records._base import stamp
from mopt.records.benchmark import Bench
from mopt.records.measurement import Machine
from mopt.records.serving import ServingProfile, Setting
from mopt.records.sizing import Line, Sizing, Span
from mopt.system.plugins import nearest


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model in one precision, with what was measured of it."""

    name: str
    precision: str
    profile: ServingProfile


def read_subject(path: Path) -> list[Subject]:
    """Read an artifact, with the reference and the finalists beside the chosen one, or a profile that mopt bench wrote.

    Raises:
        UserError: When it is neither.
    """
    if path.is_dir() and (path / FILE_NAME).is_file():
        return _from_artifact(path)
    hint = "give a folder that mopt build wrote, or a file of mopt bench --out"
    if not path.is_file():
        raise UserError(f"{path} is no artifact and no profile", hint)
    try:
        found = Bench.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path} is not a profile: {'.'.join(map(str, first['loc']))}: {first['msg']}", hint) from None
    return [Subject(found.name, found.chosen, found.profile)]


def _from_artifact(path: Path) -> list[Subject]:
    manifest = read_manifest(path)
    batches = manifest.signature.batches
    subjects = []
    for trial in manifest.trials:
        shown = trial.name in (manifest.chosen, manifest.reference.name)
        if trial.profile is None or not (shown or trial.profile.depth == "full"):
            continue
        if trial.name == manifest.chosen and manifest.serving_profile is not None:
            subjects.append(Subject(manifest.name, trial.name, manifest.serving_profile))
        elif shown or trial.quality is None or trial.quality.verdict != "fail":
            profile = without_layouts(trial.profile, manifest.machine, manifest.noise, batches=batches)
            subjects.append(Subject(manifest.name, trial.name, profile))
    if not subjects:
        raise UserError(f"nothing was measured of {path}", "measure it where it will be served: mopt bench --out profile.json")
    return subjects


def size(subjects: Sequence[Subject], wish: Wish, *, progress: Progress | None = None) -> Sizing:
    """Compare targets and precisions for a traffic.

    Numbers for the machine that the profiles were measured on are measurements, put through the same simulation as every
    prediction; those for other machines are projections with a range, and say so.

    Raises:
        UserError: When no target matches, or a profile was measured on another machine than this one.
    """
    progress = progress or Silent()
    machine = _only_machine(subjects)
    here = detect()
    if wish.machine is not None and load_target(wish.machine, machine).hardware is None:
        raise UserError(f"{wish.machine} is a kind of CPU, and has no price", "give --this-machine the name of a rented one")
    targets = _targets(wish, machine)
    warnings = [] if same_machine(machine, here) else [f"measured on {machine.cpu}, and this is {here.cpu}"]
    lines: list[Line] = []
    profiles: dict[int, ServingProfile] = {}
    progress.stage("sizing", len(subjects) * (1 + len(targets)))
    peak = _own_peak(wish, machine, here)
    if peak is None and targets:
        warnings.append("other machines are left out: give --this-machine, the target that the profiles were measured on")
        targets = []
    for subject in subjects:
        own = load_target(wish.machine, machine) if wish.machine else None
        profiles[len(lines)] = subject.profile
        lines.append(_measured(subject, wish, own))
        progress.step(f"{subject.precision} here")
        for target in targets:
            assert peak is not None
            line, projected = _projected(subject, wish, target, peak)
            if projected is not None:
                profiles[len(lines)] = projected
            lines.append(line)
            progress.step(f"{subject.precision} on {target.name}")
    best, why = recommended(lines, wish)
    every = [load_target(name, machine) for name in target_names()]
    gpus = [target for target in every if target.device == "gpu" and target.hardware is not None]
    return Sizing(
        name=subjects[0].name,
        rate=wish.demand.rate,
        mean_rate=wish.mean_rate,
        p99_ms=wish.demand.p99_ms,
        max_load=wish.demand.max_load,
        spare=wish.demand.spare,
        arrivals=str(wish.demand.arrivals),
        daily=wish.daily,
        budget_usd=wish.budget_usd,
        **stamp(),
        measured_on=f"{machine.cpu}, {machine.cores} cores",
        noise=subjects[0].profile.noise,
        lines=tuple(lines),
        recommended=best,
        why=why,
        gpu=gpu_verdict(lines, best, gpus, wish),
        autoscaling=autoscaling(lines[best], _start(lines[best], subjects), wish) if best is not None else None,
        cost=cost_curves(lines, best, gpus, wish),
        p99=p99_curves(lines, best, profiles, wish),
        sources=_sources([*targets, *gpus]),
        warnings=tuple(warnings),
    )


def same_machine(one: Machine, other: Machine) -> bool:
    """Whether two descriptions are of the same kind of machine."""
    return (one.cpu, one.isa, one.cores) == (other.cpu, other.isa, other.cores)


def _only_machine(subjects: Sequence[Subject]) -> Machine:
    first = subjects[0].profile.machine
    for subject in subjects:
        if not same_machine(subject.profile.machine, first):
            raise UserError(
                f"profiles are of two machines: {subject.profile.machine.cpu} and {first.cpu}",
                "give profiles of one machine; run mopt bench on it",
            )
    return first


def _targets(wish: Wish, machine: Machine) -> list[Target]:
    rented = [load_target(name, machine) for name in target_names()]
    rented = [target for target in rented if target.hardware is not None and target.device == "cpu"]
    names = [target.name for target in rented]
    for pattern in wish.targets:
        if not fnmatch.filter([*names, "here"], pattern):
            raise UserError(f"no target that can be rented is called {pattern}", nearest(pattern, names))
    return [target for target in rented if any(fnmatch.fnmatch(target.name, pattern) for pattern in wish.targets)]


def _own_peak(wish: Wish, machine: Machine, here: Machine) -> Peak | None:
    """What the machine of the profiles can do: measured when it is this one, else from the target that the user named."""
    own = load_target(wish.machine, machine).hardware if wish.machine else None
    if not same_machine(machine, here):
        return peak_of(own) if own else None
    measured = measure_peak(here)
    if own is None:
        return measured
    clock = measured.clock_ghz * 1e9  # two CPUs with the same instructions may do different work in a cycle
    return dataclasses.replace(measured, flops={name: figure.value * clock for name, figure in own.per_cycle.items()})


def _measured(subject: Subject, wish: Wish, own: Target | None) -> Line:
    hardware = own.hardware if own else None
    price = wish.price_usd if wish.price_usd is not None else (hardware.price.value if hardware else None)
    setting = cheapest(subject.profile, wish.demand)
    line = Line(
        target="here",
        description=f"this machine: {subject.profile.machine.cpu}" if own is None else f"this machine: {own.description}",
        precision=subject.precision,
        origin="measured",
        hourly_usd=price,
    )
    power = hardware.power.value if hardware and hardware.power else None
    return _filled(line, subject.profile, setting, [setting, setting], wish, subject.profile.machine.memory_bytes, power)


def _projected(subject: Subject, wish: Wish, target: Target, here: Peak) -> tuple[Line, ServingProfile | None]:
    hardware = target.hardware
    assert hardware is not None
    line = Line(
        target=target.name,
        description=target.description,
        precision=subject.precision,
        origin="projected",
        hourly_usd=hardware.price.value,
    )
    if not subject.profile.operators:
        return line.model_copy(update={"excluded": "no operators were profiled: run mopt bench on a CPU"}), None
    there = peak_of(hardware)
    cores = int(hardware.cores.value)
    versions = {end: move(subject.profile, here, there, cores, end) for end in ("value", "low", "high")}
    setting = cheapest(versions["value"], wish.demand)
    ends = [resize(versions[end], setting, wish.demand) for end in ("low", "high")] if setting else []
    power = hardware.power.value if hardware.power else None
    memory = int(hardware.memory.value * 2**30)
    return _filled(line, versions["value"], setting, ends, wish, memory, power), versions["value"]


def _filled(
    line: Line,
    profile: ServingProfile,
    setting: Setting | None,
    ends: Sequence[Setting | None],
    wish: Wish,
    memory: int,
    power: float | None,
) -> Line:
    demand = wish.demand
    if setting is None or setting.replicas is None:
        return line.model_copy(update={"excluded": f"no setting keeps a p99 of {demand.p99_ms:g} ms"})
    counts = [one.replicas if one is not None and one.replicas is not None else math.inf for one in ends]
    replicas = _span(setting.replicas + demand.spare, *(count + demand.spare for count in counts))
    p99s = [one.p99_ms for one in ends if one is not None and one.p99_ms is not None]
    taken = setting.instances * _memory_at(profile, setting.max_batch)
    most = holds_most(profile, setting, demand)
    monthly = _times(replicas, line.hourly_usd * HOURS_PER_MONTH) if line.hourly_usd is not None else None
    requests = wish.mean_rate * HOURS_PER_MONTH * 3600 / 1e6
    filled = line.model_copy(
        update={
            "instances": setting.instances,
            "threads": setting.threads,
            "max_batch": setting.max_batch,
            "queue_delay_us": setting.queue_delay_us,
            "replicas": replicas,
            "p99_ms": _span(setting.p99_ms or 0.0, *p99s),
            "load": setting.load,
            "most_per_replica": round(most, 3),
            "memory_bytes": taken,
            "monthly_usd": monthly,
            "per_million_usd": _times(monthly, 1 / requests) if monthly else None,
            "autoscaled_usd": _autoscaled(line.hourly_usd, most, wish),
            "kwh_month": replicas.value * power * HOURS_PER_MONTH / 1e3 if power else None,
            "binding": setting.binding,
        }
    )
    return filled.model_copy(update={"excluded": _excluded(filled, memory, wish)})


def _excluded(line: Line, memory: int, wish: Wish) -> str:
    if line.memory_bytes and line.memory_bytes > 0.9 * memory:
        return f"its instances take {line.memory_bytes / 1e9:.1f} GB, and it has {memory / 1e9:.1f} GB"
    if wish.budget_usd is not None and line.monthly_usd is not None and line.monthly_usd.value > wish.budget_usd:
        return f"over the budget of {wish.budget_usd:,.0f} USD a month"
    return ""


def _span(value: float, *ends: float) -> Span:
    return Span(value=value, low=min([value, *ends]), high=max([value, *ends]))


def _times(span: Span, factor: float) -> Span:
    return Span(value=span.value * factor, low=span.low * factor, high=span.high * factor)


def _memory_at(profile: ServingProfile, batch: int) -> int:
    known = [size for most, size in sorted(profile.memory.items()) if most >= batch]
    return known[0] if known else max(profile.memory.values(), default=0)


def _autoscaled(hourly: float | None, most: float, wish: Wish) -> float | None:
    """A month's cost when each hour has the machines that its rate needs."""
    if hourly is None or not wish.daily or most <= 0:
        return None
    hours = [max(1, math.ceil(rate / most)) + wish.demand.spare for rate in wish.daily]
    return sum(hours) / len(hours) * hourly * HOURS_PER_MONTH


def _sources(targets: Sequence[Target]) -> dict[str, dict[str, str]]:
    found = {}
    for target in targets:
        hardware = target.hardware
        assert hardware is not None
        figures = {
            "cores": hardware.cores, "clock": hardware.clock, "memory": hardware.memory, "bandwidth": hardware.bandwidth,
            "price": hardware.price, **{f"{name} per cycle": figure for name, figure in hardware.per_cycle.items()},
        }  # fmt: skip
        found[target.name] = {
            name: f"{figure.value:g} {figure.unit} ({figure.source}, {figure.date})" for name, figure in figures.items()
        }
    return found


def _start(line: Line, subjects: Sequence[Subject]) -> float:
    """Seconds from the start of a process until it answers as fast as it will."""
    profile = next(subject.profile for subject in subjects if subject.precision == line.precision)
    return (profile.load_ms + profile.first_ms + profile.warm_ms) / 1e3
