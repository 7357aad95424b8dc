"""Which machines, how many, with which settings, for how much money."""

from __future__ import annotations

__all__ = ["Subject", "Wish", "read_subject", "size"]

import dataclasses
import datetime
import fnmatch
import math
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pydantic

from mopt.artifacts.manifest import (
    FILE_NAME,
    BatchProfile,
    Estimate,
    Layout,
    Machine,
    ServingProfile,
    Setting,
    read_manifest,
)
from mopt.artifacts.sizing import Autoscaling, Curve, GpuVerdict, Line, Sizing, Span
from mopt.bench import Bench
from mopt.capacity import without_layouts
from mopt.errors import UserError
from mopt.profiles.batching import Demand, cheapest, holds_most, resize
from mopt.profiles.machine import detect
from mopt.profiles.roofline import Peak, Ratio, latency_ratio, measure_peak, peak_of
from mopt.profiles.simulate import Policy, Service, simulate
from mopt.profiles.target import Target, load_target, target_names
from mopt.progress import Progress, Silent
from mopt.registry import nearest

HOURS_PER_MONTH = 730.0
_CURVES = 4
_POINTS = 25
_SPAN = 16.0
"""Charts reach from the rate over this to the rate times this."""
_LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model in one precision, with what was measured of it."""

    name: str
    precision: str
    profile: ServingProfile


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is asked.

    Attributes:
        demand: The traffic at its peak, and the limits.
        daily: Requests per second in each of 24 hours; empty for a constant rate.
        budget_usd: Most that a month may cost.
        targets: Patterns of names.
        price_usd: Of this machine, in USD per hour; None when it is not known.
        machine: Name of the target that this machine is; None when it is none of them.
    """

    demand: Demand
    daily: tuple[float, ...] = ()
    budget_usd: float | None = None
    targets: tuple[str, ...] = ("*",)
    price_usd: float | None = None
    machine: str | None = None

    @property
    def mean_rate(self) -> float:
        """Requests per second on average."""
        return math.fsum(self.daily) / len(self.daily) if self.daily else self.demand.rate


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
        raise UserError(f"{wish.machine} is a kind of CPU, and has no price", "give --machine the name of a rented one")
    targets = _targets(wish, machine)
    warnings = [] if same_machine(machine, here) else [f"measured on {machine.cpu}, and this is {here.cpu}"]
    lines: list[Line] = []
    profiles: dict[int, ServingProfile] = {}
    progress.stage("sizing", len(subjects) * (1 + len(targets)))
    peak = _own_peak(wish, machine, here)
    if peak is None and targets:
        warnings.append("other machines are left out: give --machine, the target that the profiles were measured on")
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
    best, why = _recommended(lines, wish)
    gpus = [target for name in target_names() if (target := load_target(name, machine)).device == "gpu"]
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
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        mopt_version=metadata.version("mopt"),
        measured_on=f"{machine.cpu}, {machine.cores} cores",
        noise=subjects[0].profile.noise,
        lines=tuple(lines),
        recommended=best,
        why=why,
        gpu=_gpu_verdict(lines, best, gpus, wish),
        autoscaling=_autoscaling(lines, best, subjects, wish),
        cost=_cost_curves(lines, best, gpus, wish),
        p99=_p99_curves(lines, best, profiles, wish),
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
        return line.model_copy(update={"excluded": "no operators were profiled: run mopt bench on the artifact"}), None
    there = peak_of(hardware)
    cores = int(hardware.cores.value)
    versions = {end: _moved(subject.profile, here, there, cores, end) for end in ("value", "low", "high")}
    setting = cheapest(versions["value"], wish.demand)
    ends = [resize(versions[end], setting, wish.demand) for end in ("low", "high")] if setting else []
    power = hardware.power.value if hardware.power else None
    memory = int(hardware.memory.value * 2**30)
    return _filled(line, versions["value"], setting, ends, wish, memory, power), versions["value"]


def _moved(profile: ServingProfile, here: Peak, there: Peak, cores: int, end: str) -> ServingProfile:
    """The profile that another machine would have: each measured number of threads, and as many instances as cores allow."""
    moved = []
    for layout in profile.layouts:
        if layout.threads > cores:
            continue
        instances = cores // layout.threads
        ratios = {
            entry.batch: float(getattr(_ratio(profile, here, there, entry.batch, layout.threads), end))
            for entry in layout.together
        }
        moved.append(
            Layout(
                instances=instances,
                threads=layout.threads,
                alone=tuple(_scaled(entry, ratios[entry.batch]) for entry in layout.alone),
                together=tuple(_scaled(entry, ratios[entry.batch]) for entry in layout.together),
            )
        )
    return profile.model_copy(update={"layouts": tuple(moved)})


def _ratio(profile: ServingProfile, here: Peak, there: Peak, batch: int, threads: int) -> Ratio:
    # The operators were profiled with all threads; another number changes time here and there alike, but not the bandwidth.
    operators = [one.model_copy(update={"threads": threads}) for one in profile.operators]
    return latency_ratio(operators, here, there, batch)


def _scaled(entry: BatchProfile, ratio: float) -> BatchProfile:
    def times(estimate: Estimate) -> Estimate:
        return estimate.model_copy(update={name: getattr(estimate, name) * ratio for name in ("value", "low", "high")})

    return entry.model_copy(
        update={
            "p50": times(entry.p50),
            "p90": times(entry.p90),
            "p99": times(entry.p99),
            "mean": entry.mean * ratio,
            "samples": tuple(latency * ratio for latency in entry.samples),
            "throughput": entry.throughput / ratio,
            "ratio": None,
        }
    )


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


def _recommended(lines: Sequence[Line], wish: Wish) -> tuple[int | None, str]:
    """The cheapest line even at the unfavourable end of its range; what was measured where it costs no more."""
    possible = [
        (line.monthly_usd.high, line.origin != "measured", index)
        for index, line in enumerate(lines)
        if not line.excluded and line.monthly_usd is not None
    ]
    if possible:
        index = min(possible)[2]
        line = lines[index]
        assert line.monthly_usd is not None
        assert line.replicas is not None
        others = sorted({other for other, _, position in possible if lines[position].target != line.target})
        gap = f"; the next machine costs {others[0] / line.monthly_usd.high:.2g} times as much" if others else ""
        end = ", even at the unfavourable end of its range" if line.origin == "projected" else ""
        return index, f"it holds the traffic for the least money{end}{gap}; decided by {line.binding}"
    free = [(line.replicas.value, index) for index, line in enumerate(lines) if not line.excluded and line.replicas]
    if free:
        return min(free)[1], "it needs the fewest machines; no price is known, so that money could not decide"
    return None, "nothing that was compared holds the traffic within the limits"


def _gpu_verdict(lines: Sequence[Line], best: int | None, gpus: Sequence[Target], wish: Wish) -> GpuVerdict:
    """A GPU that costs more than the CPUs cannot pay, however fast it is; one that costs less might."""
    priced = [(target.hardware.price.value, target) for target in gpus if target.hardware is not None]
    line = lines[best] if best is not None else None
    if not priced or line is None or line.monthly_usd is None or not line.most_per_replica or line.hourly_usd is None:
        return GpuVerdict(answer="not known", sentence="Without prices and a setting that holds, GPUs cannot be compared.")
    price, gpu = min(priced, key=lambda pair: pair[0])
    machines = 1 + wish.demand.spare
    gpu_monthly = machines * price * HOURS_PER_MONTH
    # The first number of CPU machines that costs more than the GPU, and the rate at which that many are needed.
    affordable = math.floor(machines * price / line.hourly_usd - 1e-9) - wish.demand.spare
    pays_from = max(0, affordable) * line.most_per_replica
    told = f"{gpu.name} costs {gpu_monthly:,.0f} USD a month for {machines} of it"
    if line.monthly_usd.high <= gpu_monthly:
        sentence = (
            f"CPU: {told}, more than the CPUs at {line.monthly_usd.high:,.0f} USD, however fast it may be. "
            f"It can pay from about {pays_from:,.0f} requests per second on."
        )
        return GpuVerdict(answer="CPU", sentence=sentence, pays_from=pays_from, gpu=gpu.name)
    sentence = (
        f"Perhaps a GPU: {told}, less than the CPUs at {line.monthly_usd.value:,.0f} USD. It pays if one "
        f"holds {wish.demand.rate:,.0f} requests per second within the limits, which was not measured."
    )
    return GpuVerdict(answer="perhaps a GPU", sentence=sentence, pays_from=pays_from, gpu=gpu.name)


def _autoscaling(lines: Sequence[Line], best: int | None, subjects: Sequence[Subject], wish: Wish) -> Autoscaling | None:
    if best is None or not lines[best].most_per_replica:
        return None
    line = lines[best]
    assert line.most_per_replica is not None
    profile = next(subject.profile for subject in subjects if subject.precision == line.precision)
    start = (profile.load_ms + profile.first_ms + profile.warm_ms) / 1e3
    lowest = min(wish.daily) if wish.daily else wish.demand.rate
    growth = _growth(wish.daily) * start
    minimum = max(1, math.ceil((lowest + growth) / line.most_per_replica)) + wish.demand.spare
    why = (
        f"the lowest rate is {lowest:,.4g} requests per second, and while a replica starts ({start:.2g} s) it grows by at most "
        f"{growth:.2g}" + (f"; {wish.demand.spare} more may be lost" if wish.demand.spare else "")
    )
    return Autoscaling(
        metric="requests per second of a replica",
        threshold=round(line.most_per_replica, 1),
        unit="requests/s",
        minimum=minimum,
        start_seconds=start,
        why=why,
    )


def _growth(daily: Sequence[float]) -> float:
    """The steepest rise in requests per second, per second, between two hours."""
    return max([0.0, *((after - before) / 3600 for before, after in zip(daily, [*daily[1:], *daily[:1]], strict=True))])


def _best_of_targets(lines: Sequence[Line], best: int | None) -> list[Line]:
    """The cheapest line of each target, the recommended one first."""
    found: dict[str, Line] = {}
    ranked = sorted(
        (line for line in lines if line.monthly_usd is not None and line.most_per_replica and not line.excluded),
        key=lambda line: line.monthly_usd.value if line.monthly_usd else math.inf,
    )
    if best is not None and lines[best] in ranked:
        ranked = [lines[best], *ranked]
    for line in ranked:
        found.setdefault(line.target, line)
    return list(found.values())[:_CURVES]


def _rates(wish: Wish) -> list[float]:
    step = _SPAN ** (2 / (_POINTS - 1))
    return [wish.demand.rate / _SPAN * step**index for index in range(_POINTS)]


def _cost_curves(lines: Sequence[Line], best: int | None, gpus: Sequence[Target], wish: Wish) -> tuple[Curve, ...]:
    rates = _rates(wish)
    curves = []
    for index, line in enumerate(_best_of_targets(lines, best)):
        most, hourly = line.most_per_replica or 1.0, line.hourly_usd or 0.0
        values = [(max(1, math.ceil(rate / most)) + wish.demand.spare) * hourly * HOURS_PER_MONTH for rate in rates]
        role = "chosen" if index == 0 and best is not None else "cpu"
        curves.append(Curve(name=f"{line.target}, {line.precision}", role=role, rates=tuple(rates), values=tuple(values)))
    priced = [(target.hardware.price.value, target.name) for target in gpus if target.hardware is not None]
    if curves and priced:
        price, name = min(priced)
        flat = (1 + wish.demand.spare) * price * HOURS_PER_MONTH
        curves.append(Curve(name=f"one {name}, if it holds", role="gpu", rates=tuple(rates), values=(flat,) * len(rates)))
    return tuple(curves)


def _p99_curves(lines: Sequence[Line], best: int | None, profiles: dict[int, ServingProfile], wish: Wish) -> tuple[Curve, ...]:
    """p99 by rate for the machines that are recommended, all of them up."""
    if best is None or best not in profiles or lines[best].replicas is None:
        return ()
    line = lines[best]
    assert line.replicas is not None
    assert line.max_batch is not None
    assert line.instances is not None
    layout = profiles[best].layout(line.instances, line.threads or 1)
    service = Service.of(layout).capped(line.max_batch)
    policy = Policy(line.max_batch, line.queue_delay_us / 1e3, instances=line.instances, replicas=int(line.replicas.value))
    capacity = service.capacity(policy)
    found = [simulate(service, load * capacity, policy, arrivals=wish.demand.arrivals) for load in _LOADS]
    return (
        Curve(
            name=f"{int(line.replicas.value)} x {line.target}",
            role="chosen",
            rates=tuple(load * capacity for load in _LOADS),
            values=tuple(one.p99.value for one in found),
            low=tuple(one.p50.value for one in found),
            high=tuple(one.p999.value for one in found),
        ),
    )


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
