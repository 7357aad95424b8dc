"""What the options of a sizing say together: which one to rent, whether a GPU pays, how to scale, and the curves of what-if."""

from __future__ import annotations

__all__ = ["HOURS_PER_MONTH", "SizingRequest", "autoscaling", "cost_curves", "gpu_verdict", "p99_curves", "recommended"]

import dataclasses
import math
from collections.abc import Sequence

from mopt.capacity.batching import Demand, service_of
from mopt.capacity.simulate import Policy, simulate
from mopt.profiles.target import Target
from mopt.records.serving import ServingProfile
from mopt.records.sizing import Autoscaling, Curve, GpuVerdict, SizingOption

HOURS_PER_MONTH = 730.0
"""A twelfth of 365 days, as cloud price lists count."""
_CURVES = 4
_POINTS = 25
_SPAN = 16.0
"""Charts reach from the rate over this to the rate times this."""
_LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class SizingRequest:
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


def recommended(options: Sequence[SizingOption], request: SizingRequest) -> tuple[int | None, str]:
    """Return the cheapest line even at the unfavourable end of its range; what was measured where it costs no more; and why."""
    possible = [
        (option.monthly_usd.high, option.origin != "measured", index)
        for index, option in enumerate(options)
        if not option.excluded and option.monthly_usd is not None
    ]
    if possible:
        index = min(possible)[2]
        option = options[index]
        assert option.monthly_usd is not None
        assert option.replicas is not None
        rival_costs = sorted({cost for cost, _, position in possible if options[position].target != option.target})
        gap = f"; the next machine costs {rival_costs[0] / option.monthly_usd.high:.2g} times as much" if rival_costs else ""
        end = ", even at the unfavourable end of its range" if option.origin == "projected" else ""
        return index, f"it holds the traffic for the least money{end}{gap}; decided by {option.limited_by}"
    free = [(option.replicas.value, index) for index, option in enumerate(options) if not option.excluded and option.replicas]
    if free:
        return min(free)[1], "it needs the fewest machines; no price is known, so that money could not decide"
    return None, "nothing that was compared holds the traffic within the limits"


def gpu_verdict(
    options: Sequence[SizingOption], best: int | None, gpus: Sequence[Target], request: SizingRequest
) -> GpuVerdict:
    """Return whether a GPU can pay: one that costs more than the CPUs cannot, however fast it is; one that costs less might."""
    priced = [(target.hardware.price.value, target) for target in gpus if target.hardware is not None]
    option = options[best] if best is not None else None
    if not priced or option is None or option.monthly_usd is None or not option.peak_qps or option.hourly_usd is None:
        return GpuVerdict(answer="not known", sentence="Without prices and a setting that holds, GPUs cannot be compared.")
    price, gpu = min(priced, key=lambda pair: pair[0])
    machines = 1 + request.demand.spare_replicas
    gpu_monthly = machines * price * HOURS_PER_MONTH
    # The first number of CPU machines that costs more than the GPU, and the rate at which that many are needed.
    affordable = math.floor(machines * price / option.hourly_usd - 1e-9) - request.demand.spare_replicas
    pays_from = max(0, affordable) * option.peak_qps
    gpu_cost = f"{gpu.name} costs {gpu_monthly:,.0f} USD a month for {machines} of it"
    if option.monthly_usd.high <= gpu_monthly:
        sentence = (
            f"CPU: {gpu_cost}, more than the CPUs at {option.monthly_usd.high:,.0f} USD, however fast it may be. "
            f"It can pay from about {pays_from:,.0f} requests per second on."
        )
        return GpuVerdict(answer="CPU", sentence=sentence, pays_from=pays_from, gpu=gpu.name)
    sentence = (
        f"Perhaps a GPU: {gpu_cost}, less than the CPUs at {option.monthly_usd.value:,.0f} USD. It pays if one "
        f"holds {request.demand.rate:,.0f} requests per second within the limits, which was not measured."
    )
    return GpuVerdict(answer="perhaps a GPU", sentence=sentence, pays_from=pays_from, gpu=gpu.name)


def autoscaling(option: SizingOption, start: float, request: SizingRequest) -> Autoscaling | None:
    """Return how to scale the recommended machines.

    Args:
        option: The recommended one.
        start: Seconds until a new replica is warm.
        request: What is asked.
    """
    if not option.peak_qps:
        return None
    lowest = min(request.daily) if request.daily else request.demand.rate
    growth = _growth(request.daily) * start
    minimum = max(1, math.ceil((lowest + growth) / option.peak_qps)) + request.demand.spare_replicas
    why = (
        f"the lowest rate is {lowest:,.4g} requests per second, and while a replica starts ({start:.2g} s) it grows by at most "
        f"{growth:.2g}" + (f"; {request.demand.spare_replicas} more may be lost" if request.demand.spare_replicas else "")
    )
    return Autoscaling(
        metric="requests per second of a replica",
        threshold=round(option.peak_qps, 1),
        unit="requests/s",
        minimum=minimum,
        start_seconds=start,
        why=why,
    )


def _growth(daily: Sequence[float]) -> float:
    """The steepest rise in requests per second, per second, between two hours."""
    return max([0.0, *((after - before) / 3600 for before, after in zip(daily, [*daily[1:], *daily[:1]], strict=True))])


def _best_of_targets(options: Sequence[SizingOption], best: int | None) -> list[SizingOption]:
    """The cheapest line of each target, the recommended one first."""
    cheapest: dict[str, SizingOption] = {}
    ranked = sorted(
        (option for option in options if option.monthly_usd is not None and option.peak_qps and not option.excluded),
        key=lambda option: option.monthly_usd.value if option.monthly_usd else math.inf,
    )
    if best is not None and options[best] in ranked:
        ranked = [options[best], *ranked]
    for option in ranked:
        cheapest.setdefault(option.target, option)
    return list(cheapest.values())[:_CURVES]


def _rates(request: SizingRequest) -> list[float]:
    step = _SPAN ** (2 / (_POINTS - 1))
    return [request.demand.rate / _SPAN * step**index for index in range(_POINTS)]


def cost_curves(
    options: Sequence[SizingOption], best: int | None, gpus: Sequence[Target], request: SizingRequest
) -> tuple[Curve, ...]:
    """Return what a month costs by rate: the cheapest line of each target, and one GPU."""
    rates = _rates(request)
    curves = []
    for index, option in enumerate(_best_of_targets(options, best)):
        most, hourly = option.peak_qps or 1.0, option.hourly_usd or 0.0
        values = [(max(1, math.ceil(rate / most)) + request.demand.spare_replicas) * hourly * HOURS_PER_MONTH for rate in rates]
        role = "chosen" if index == 0 and best is not None else "cpu"
        curves.append(Curve(name=f"{option.target}, {option.precision}", role=role, rates=tuple(rates), values=tuple(values)))
    priced = [(target.hardware.price.value, target.name) for target in gpus if target.hardware is not None]
    if curves and priced:
        price, name = min(priced)
        flat = (1 + request.demand.spare_replicas) * price * HOURS_PER_MONTH
        curves.append(Curve(name=f"one {name}, if it holds", role="gpu", rates=tuple(rates), values=(flat,) * len(rates)))
    return tuple(curves)


def p99_curves(
    options: Sequence[SizingOption], best: int | None, profiles: dict[int, ServingProfile], request: SizingRequest
) -> tuple[Curve, ...]:
    """Return p99 by rate for the machines that are recommended, all of them up."""
    if best is None or best not in profiles or options[best].replicas is None:
        return ()
    option = options[best]
    assert option.replicas is not None
    assert option.max_batch is not None
    assert option.instances is not None
    group = profiles[best].instance_group(option.instances, option.threads or 1)
    service = service_of(profiles[best], group, option.max_batch)
    policy = Policy(
        option.max_batch, option.queue_delay_us / 1e3, instances=option.instances, replicas=int(option.replicas.value)
    )
    capacity = service.capacity(policy)
    forecasts = [simulate(service, load * capacity, policy, arrivals=request.demand.arrivals) for load in _LOADS]
    return (
        Curve(
            name=f"{int(option.replicas.value)} x {option.target}",
            role="chosen",
            rates=tuple(load * capacity for load in _LOADS),
            values=tuple(point.p99.value for point in forecasts),
            low=tuple(point.p50.value for point in forecasts),
            high=tuple(point.p999.value for point in forecasts),
        ),
    )
