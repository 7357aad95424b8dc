"""What the lines of a sizing say together: which one to rent, whether a GPU pays, how to scale, and the curves of what-if."""

from __future__ import annotations

__all__ = ["HOURS_PER_MONTH", "Wish", "autoscaling", "cost_curves", "gpu_verdict", "p99_curves", "recommended"]

import dataclasses
import math
from collections.abc import Sequence

from mopt.capacity.batching import Demand
from mopt.capacity.simulate import Policy, Service, simulate
from mopt.profiles.target import Target
from mopt.records.serving import ServingProfile
from mopt.records.sizing import Autoscaling, Curve, GpuVerdict, Line

HOURS_PER_MONTH = 730.0
_CURVES = 4
_POINTS = 25
_SPAN = 16.0
"""Charts reach from the rate over this to the rate times this."""
_LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


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


def recommended(lines: Sequence[Line], wish: Wish) -> tuple[int | None, str]:
    """Return the cheapest line even at the unfavourable end of its range; what was measured where it costs no more; and why."""
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


def gpu_verdict(lines: Sequence[Line], best: int | None, gpus: Sequence[Target], wish: Wish) -> GpuVerdict:
    """Return whether a GPU can pay: one that costs more than the CPUs cannot, however fast it is; one that costs less might."""
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


def autoscaling(line: Line, start: float, wish: Wish) -> Autoscaling | None:
    """Return how to scale the recommended machines.

    Args:
        line: The recommended one.
        start: Seconds until a new replica is warm.
        wish: What is asked.
    """
    if not line.most_per_replica:
        return None
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


def cost_curves(lines: Sequence[Line], best: int | None, gpus: Sequence[Target], wish: Wish) -> tuple[Curve, ...]:
    """Return what a month costs by rate: the cheapest line of each target, and one GPU."""
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


def p99_curves(lines: Sequence[Line], best: int | None, profiles: dict[int, ServingProfile], wish: Wish) -> tuple[Curve, ...]:
    """Return p99 by rate for the machines that are recommended, all of them up."""
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
