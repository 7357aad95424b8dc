"""Which machines, how many, with which settings, for how much money."""

from __future__ import annotations

__all__ = ["Balancer", "ProfiledModel", "make_sizing_request", "read_profiled_models", "size"]

import dataclasses
import fnmatch
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pydantic

from mopt.artifacts.artifact import is_artifact, read_manifest
from mopt.capacity.arrivals import parse_arrivals
from mopt.capacity.batching import Demand, cheapest, max_rate, rescale
from mopt.capacity.measure import without_instance_groups
from mopt.capacity.recommendation import (
    HOURS_PER_MONTH,
    SizingRequest,
    autoscaling,
    cost_curves,
    gpu_verdict,
    p99_curves,
    recommended,
)
from mopt.capacity.roofline import Peak, measure_peak, peak_of, project_profile
from mopt.capacity.simulate import check_installed
from mopt.errors import UserError
from mopt.profiles.machine import detect
from mopt.profiles.target import Target, load_target, target_names
from mopt.progress import Progress, Silent
from mopt.recipe import Traffic
from mopt.records._base import stamp
from mopt.records.benchmark import Benchmark
from mopt.records.measurement import Machine
from mopt.records.serving import ServingProfile, Setting
from mopt.records.sizing import Range, Sizing, SizingOption
from mopt.storage._fetch import fetched
from mopt.system.plugins import nearest

_UNPROFILED = "no operators were profiled: a build and mopt bench --out do that for the chosen model, on a CPU"

Balancer = Literal["random", "round robin", "least loaded"]


@dataclasses.dataclass(frozen=True)
class ProfiledModel:
    """A model in one precision, with what was measured of it."""

    name: str
    precision: str
    profile: ServingProfile


def read_profiled_models(source: str | Path, progress: Progress | None = None) -> list[ProfiledModel]:
    """Read an artifact, with the reference and the shortlist beside the chosen one, or a profile that mopt bench wrote.

    Args:
        source: A path or a URL.
        progress: Receives a stage while it is fetched.

    Raises:
        UserError: When it is neither.
    """
    path = Path(fetched(source, progress))
    if is_artifact(path):
        return _from_artifact(path)
    hint = "give a folder that mopt build wrote, or a file of mopt bench --out"
    if not path.is_file():
        raise UserError(f"{source} is no artifact and no profile", hint)
    try:
        benchmark = Benchmark.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{source} is not a profile: {'.'.join(map(str, first['loc']))}: {first['msg']}", hint) from None
    return [ProfiledModel(benchmark.name, benchmark.chosen, benchmark.profile)]


def _from_artifact(path: Path) -> list[ProfiledModel]:
    manifest = read_manifest(path)
    batches = manifest.signature.batches
    subjects = []
    for trial in manifest.trials:
        shown = trial.name in (manifest.chosen, manifest.reference.name)
        if trial.profile is None or not (shown or trial.profile.depth == "full"):
            continue
        if trial.name == manifest.chosen and manifest.serving_profile is not None:
            subjects.append(ProfiledModel(manifest.name, trial.name, manifest.serving_profile))
        elif shown or trial.quality is None or trial.quality.verdict != "fail":
            profile = without_instance_groups(trial.profile, manifest.machine, manifest.noise, batches=batches)
            subjects.append(ProfiledModel(manifest.name, trial.name, profile))
    if not subjects:
        raise UserError(f"nothing was measured of {path}", "measure it where it will be served: mopt bench --out profile.json")
    return subjects


def make_sizing_request(
    traffic: Traffic,
    *,
    compare: Sequence[str] = (),
    this_machine: str | None = None,
    price: float | None = None,
    max_cost: float | None = None,
    daily: Sequence[float] = (),
    balancer: Balancer = "random",
) -> SizingRequest:
    """Return what is asked; without a rate the peak is the largest of the day, or a trace's own rate.

    Args:
        traffic: Rate, p99, arrivals, spare replicas and utilization.
        compare: Patterns of machines; all by default.
        this_machine: The target that this machine is.
        price: Of this machine, in USD per hour.
        max_cost: Most USD that a month may cost.
        daily: Requests per second in each of 24 hours.
        balancer: How requests are spread over replicas.

    Raises:
        UserError: When the rate is missing, or an amount is not above 0.
    """
    for option, amount in (("--price", price), ("--max-cost", max_cost)):
        if amount is not None and amount <= 0:
            raise UserError(f"{option} is {amount:g}", "give an amount of USD above 0")
    if daily and (len(daily) != 24 or min(daily) < 0 or max(daily) <= 0):
        raise UserError(f"--daily has {len(daily)} numbers", "give requests per second for each of 24 hours, none below 0")
    arrivals = parse_arrivals(traffic.arrivals)
    peak = traffic.rate or max(daily, default=arrivals.own_rate)
    if peak is None:
        raise UserError("the rate is missing", "give --rate, --daily, or a trace with --arrivals")
    demand = Demand(peak, traffic.p99, traffic.utilization, arrivals, balancer, traffic.spare)
    return SizingRequest(demand, tuple(daily), max_cost, tuple(compare) or ("*",), price, this_machine)


def size(subjects: Sequence[ProfiledModel], request: SizingRequest, *, progress: Progress | None = None) -> Sizing:
    """Compare targets and precisions for a traffic.

    Numbers for the machine that the profiles were measured on are measurements, put through the same simulation as every
    prediction; those for other machines are projections with a range, and say so.

    Raises:
        UserError: When no target matches, or a profile was measured on another machine than this one.
        MissingDependencyError: When Numba is not installed.
    """
    check_installed()
    progress = progress or Silent()
    machine = _only_machine(subjects)
    here = detect()
    if request.machine is not None and load_target(request.machine, machine).hardware is None:
        raise UserError(f"{request.machine} is a kind of CPU, and has no price", "give --this-machine the name of a rented one")
    targets = _targets(request, machine)
    warnings = [] if same_machine(machine, here) else [f"measured on {machine.cpu}, and this is {here.cpu}"]
    peak = _own_peak(request, machine, here)
    if peak is None and targets:
        warnings.append("other machines are left out: give --this-machine, the target that the profiles were measured on")
        targets = []
    options, profiles = _compare(subjects, request, targets, peak, progress)
    best, why = recommended(options, request)
    every = [load_target(name, machine) for name in target_names()]
    gpus = [target for target in every if target.device == "gpu" and target.hardware is not None]
    return Sizing(
        name=subjects[0].name,
        rate=request.demand.rate,
        mean_rate=request.mean_rate,
        p99_ms=request.demand.p99_ms,
        max_utilization=request.demand.max_utilization,
        spare_replicas=request.demand.spare_replicas,
        arrivals=str(request.demand.arrivals),
        daily=request.daily,
        budget_usd=request.budget_usd,
        **stamp(),
        measured_on=f"{machine.cpu}, {machine.cores} cores",
        noise=subjects[0].profile.noise,
        options=tuple(options),
        recommended=best,
        why=why,
        gpu=gpu_verdict(options, best, gpus, request),
        autoscaling=autoscaling(options[best], _start(options[best], subjects), request) if best is not None else None,
        cost=cost_curves(options, best, gpus, request),
        p99=p99_curves(options, best, profiles, request),
        sources=_sources([*targets, *gpus]),
        warnings=tuple(warnings),
    )


def _compare(
    subjects: Sequence[ProfiledModel], request: SizingRequest, targets: Sequence[Target], peak: Peak | None, progress: Progress
) -> tuple[list[SizingOption], dict[int, ServingProfile]]:
    """Return an option for each model on each machine, this one first, and the profile behind each by its position."""
    options: list[SizingOption] = []
    profiles: dict[int, ServingProfile] = {}
    progress.stage("sizing", len(subjects) * (1 + len(targets)))
    for subject in subjects:
        here = load_target(request.machine, subject.profile.machine) if request.machine else None
        profiles[len(options)] = subject.profile
        options.append(_measured(subject, request, here))
        progress.step()
        for target in targets:
            assert peak is not None
            option, projected = _projected(subject, request, target, peak)
            if projected is not None:
                profiles[len(options)] = projected
            options.append(option)
            progress.step()
    return options, profiles


def same_machine(left: Machine, right: Machine) -> bool:
    """Whether two descriptions are of the same kind of machine."""
    return (left.cpu, left.isa, left.cores) == (right.cpu, right.isa, right.cores)


def _only_machine(subjects: Sequence[ProfiledModel]) -> Machine:
    first = subjects[0].profile.machine
    for subject in subjects:
        if not same_machine(subject.profile.machine, first):
            raise UserError(
                f"profiles are of two machines: {subject.profile.machine.cpu} and {first.cpu}",
                "give profiles of one machine; run mopt bench on it",
            )
    return first


def _targets(request: SizingRequest, machine: Machine) -> list[Target]:
    rented = [load_target(name, machine) for name in target_names()]
    rented = [target for target in rented if target.hardware is not None and target.device == "cpu"]
    names = [target.name for target in rented]
    for pattern in request.targets:
        if not fnmatch.filter([*names, "here"], pattern):
            raise UserError(f"no target that can be rented is called {pattern}", nearest(pattern, names))
    return [target for target in rented if any(fnmatch.fnmatch(target.name, pattern) for pattern in request.targets)]


def _own_peak(request: SizingRequest, machine: Machine, here: Machine) -> Peak | None:
    """What the machine of the profiles can do: measured when it is this one, else from the target that the user named."""
    priced = load_target(request.machine, machine).hardware if request.machine else None
    if not same_machine(machine, here):
        return peak_of(priced) if priced else None
    measured = measure_peak(here)
    if priced is None:
        return measured
    clock = measured.clock_ghz * 1e9  # two CPUs with the same instructions may do different work in a cycle
    return dataclasses.replace(measured, flops={name: figure.value * clock for name, figure in priced.per_cycle.items()})


def _measured(subject: ProfiledModel, request: SizingRequest, here: Target | None) -> SizingOption:
    hardware = here.hardware if here else None
    price = request.price_usd if request.price_usd is not None else (hardware.price.value if hardware else None)
    setting = cheapest(subject.profile, request.demand)
    option = SizingOption(
        target="here",
        description=f"this machine: {subject.profile.machine.cpu}" if here is None else f"this machine: {here.description}",
        precision=subject.precision,
        origin="measured",
        hourly_usd=price,
    )
    power = hardware.power.value if hardware and hardware.power else None
    return _filled(option, subject.profile, setting, [setting, setting], request, subject.profile.machine.memory_bytes, power)


def _projected(
    subject: ProfiledModel, request: SizingRequest, target: Target, here: Peak
) -> tuple[SizingOption, ServingProfile | None]:
    hardware = target.hardware
    assert hardware is not None
    option = SizingOption(
        target=target.name,
        description=target.description,
        precision=subject.precision,
        origin="projected",
        hourly_usd=hardware.price.value,
    )
    if not subject.profile.operators:
        return option.model_copy(update={"excluded": _UNPROFILED}), None
    there = peak_of(hardware)
    cores = int(hardware.cores.value)
    versions = {end: project_profile(subject.profile, here, there, cores, end) for end in ("value", "low", "high")}
    setting = cheapest(versions["value"], request.demand)
    ends = [rescale(versions[end], setting, request.demand) for end in ("low", "high")] if setting else []
    power = hardware.power.value if hardware.power else None
    memory = int(hardware.memory.value * 2**30)
    return _filled(option, versions["value"], setting, ends, request, memory, power), versions["value"]


def _filled(
    option: SizingOption,
    profile: ServingProfile,
    setting: Setting | None,
    ends: Sequence[Setting | None],
    request: SizingRequest,
    memory: int,
    power: float | None,
) -> SizingOption:
    demand = request.demand
    if setting is None or setting.replicas is None:
        return option.model_copy(update={"excluded": f"no setting keeps a p99 of {demand.p99_ms:g} ms"})
    counts = [end.replicas if end is not None and end.replicas is not None else math.inf for end in ends]
    replicas = _span(setting.replicas + demand.spare_replicas, *(count + demand.spare_replicas for count in counts))
    p99s = [end.p99_ms for end in ends if end is not None and end.p99_ms is not None]
    taken = setting.instances * _memory_at(profile, setting.max_batch)
    most = max_rate(profile, setting, demand)
    monthly = _times(replicas, option.hourly_usd * HOURS_PER_MONTH) if option.hourly_usd is not None else None
    requests = request.mean_rate * HOURS_PER_MONTH * 3600 / 1e6
    filled = option.model_copy(
        update={
            "instances": setting.instances,
            "threads": setting.threads,
            "max_batch": setting.max_batch,
            "queue_delay_us": setting.queue_delay_us,
            "replicas": replicas,
            "p99_ms": _span(setting.p99_ms or 0.0, *p99s),
            "utilization": setting.utilization,
            "peak_qps": round(most, 3),
            "memory_bytes": taken,
            "monthly_usd": monthly,
            "per_million_usd": _times(monthly, 1 / requests) if monthly else None,
            "autoscaled_usd": _autoscaled(option.hourly_usd, most, request),
            "kwh_month": replicas.value * power * HOURS_PER_MONTH / 1e3 if power else None,
            "limited_by": setting.limited_by,
        }
    )
    return filled.model_copy(update={"excluded": _excluded(filled, memory, request)})


def _excluded(option: SizingOption, memory: int, request: SizingRequest) -> str:
    if option.memory_bytes and option.memory_bytes > 0.9 * memory:
        return f"its instances take {option.memory_bytes / 1e9:.1f} GB, and it has {memory / 1e9:.1f} GB"
    if request.budget_usd is not None and option.monthly_usd is not None and option.monthly_usd.value > request.budget_usd:
        return f"over the budget of {request.budget_usd:,.0f} USD a month"
    return ""


def _span(value: float, *ends: float) -> Range:
    return Range(value=value, low=min([value, *ends]), high=max([value, *ends]))


def _times(span: Range, factor: float) -> Range:
    return Range(value=span.value * factor, low=span.low * factor, high=span.high * factor)


def _memory_at(profile: ServingProfile, batch: int) -> int:
    enough = [size for most, size in sorted(profile.memory.items()) if most >= batch]
    return enough[0] if enough else max(profile.memory.values(), default=0)


def _autoscaled(hourly: float | None, most: float, request: SizingRequest) -> float | None:
    """A month's cost when each hour has the machines that its rate needs."""
    if hourly is None or not request.daily or most <= 0:
        return None
    hours = [max(1, math.ceil(rate / most)) + request.demand.spare_replicas for rate in request.daily]
    return sum(hours) / len(hours) * hourly * HOURS_PER_MONTH


def _sources(targets: Sequence[Target]) -> dict[str, dict[str, str]]:
    lines = {}
    for target in targets:
        hardware = target.hardware
        assert hardware is not None
        figures = {
            "cores": hardware.cores, "clock": hardware.clock, "memory": hardware.memory, "bandwidth": hardware.bandwidth,
            "price": hardware.price, **{f"{name} per cycle": figure for name, figure in hardware.per_cycle.items()},
        }  # fmt: skip
        lines[target.name] = {
            name: f"{figure.value:g} {figure.unit} ({figure.source}, {figure.date})" for name, figure in figures.items()
        }
    return lines


def _start(option: SizingOption, subjects: Sequence[ProfiledModel]) -> float:
    """Seconds from the start of a process until it answers as fast as it will."""
    profile = next(subject.profile for subject in subjects if subject.precision == option.precision)
    return (profile.load_ms + profile.first_ms + profile.warm_ms) / 1e3
