"""The batch settings to serve with: the cheapest that hold the traffic, by simulating what was measured.

A queue delay is 0 unless it saves a replica: at low load it only adds itself to the latency, and at high load it changes
nothing. Load is the arrival rate over the capacity B / s(B), which is what to plan with; a greedy batcher is busy nearly
always from 40 % of its capacity on.
"""

from __future__ import annotations

__all__ = ["BURSTS", "Demand", "cheapest", "choose_setting", "max_rate", "recommend", "rescale", "service_of"]

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

from mopt.capacity.arrivals import Arrivals
from mopt.capacity.simulate import Forecast, Policy, Service, forecast, largest_rate, simulate
from mopt.records.serving import Batching, InstanceGroup, ServingProfile, Setting

BURSTS = Arrivals("bursty", burst=3.0, burst_share=0.1, burst_seconds=1.0)
"""What every recommendation is also shown under: three times the rate for a tenth of the time, a second at a time."""
_MOST_REPLICAS = 4096
"""A limit that so many do not keep is not a question of their number."""
_QUICK = 30_000
"""Requests of a simulation that only finds the way; the answer is simulated with more."""
_AS_FAST = 1.1
"""Of equally many replicas, a p99 up to this times the lowest is as good."""
_AS_ROOMY = 1.02
"""A utilization up to this times the lowest is as good."""
_RULE_DELAY_US = 10_000
_RULE_BATCH = 32
"""The rule of thumb that the answer is compared with: large batches and a delay of 10 ms, whatever the traffic."""


@dataclasses.dataclass(frozen=True)
class Demand:
    """What the servers must hold.

    Attributes:
        rate: Requests per second.
        p99_ms: Highest 99th percentile of the latency in ms; None for any.
        max_utilization: Highest utilization to plan with.
        arrivals: When requests arrive.
        balancer: How requests are spread over the replicas.
        spare_replicas: Replicas that may be lost while the others still hold p99 and load.
    """

    rate: float
    p99_ms: float | None = None
    max_utilization: float = 0.8
    arrivals: Arrivals = dataclasses.field(default_factory=Arrivals)
    balancer: Literal["random", "round robin", "least loaded"] = "random"
    spare_replicas: int = 0


@dataclasses.dataclass(frozen=True)
class _Option:
    """An instance group and a policy for one replica of it."""

    instance_group: InstanceGroup
    service: Service
    policy: Policy

    def setting(self, replicas: int | None, predicted: Forecast | None, limited_by: str) -> Setting:
        return Setting(
            max_batch=self.policy.max_batch,
            queue_delay_us=round(self.policy.delay_ms * 1e3),
            instances=self.policy.instances,
            threads=self.instance_group.threads,
            replicas=replicas,
            p99_ms=round(predicted.p99.value, 3) if predicted else None,
            utilization=round(predicted.utilization, 4) if predicted else None,
            mean_batch=round(predicted.mean_batch, 2) if predicted else None,
            limited_by=limited_by,
        )


def recommend(
    profile: ServingProfile,
    *,
    rate: float | None,
    p99_ms: float | None,
    max_utilization: float = 0.8,
    spare_replicas: int = 0,
    arrivals: Arrivals | None = None,
    throughput: bool = False,
) -> Batching:
    """Return the settings that hold the traffic with the fewest replicas, or that a replica is best served with.

    Without a rate there is nothing to size: then it is the settings under which one replica holds the largest rate within the
    p99, and without a p99 the smallest batch that reaches 95 % of the best throughput; on a server that pads, only where
    ``throughput`` is what was asked for, and else a request at a time.
    """
    if rate is not None:
        return choose_setting(
            profile, Demand(rate, p99_ms, max_utilization, arrivals or Arrivals(), spare_replicas=spare_replicas)
        )
    if p99_ms is not None:
        return _largest(profile, p99_ms, max_utilization, arrivals or Arrivals())
    return _by_throughput(profile, throughput=throughput)


def choose_setting(profile: ServingProfile, demand: Demand) -> Batching:
    """Return the cheapest setting that holds a demand, with all alternatives."""
    options = list(_options(profile))
    settings = [_size(option, demand) for option in options]
    chosen = _best(settings)
    if chosen is None:
        return _impossible(profile, demand, settings)
    option = options[settings.index(chosen)]
    delayed, option_delayed = _with_delay(option, demand, chosen)
    extra = [delayed] if delayed else []
    if delayed:
        chosen, option = delayed, option_delayed
    return _answer(option, demand, chosen, [*settings, *extra], _rule_of_thumb(profile, demand))


def cheapest(profile: ServingProfile, demand: Demand) -> Setting | None:
    """Return the setting that holds a demand with the fewest replicas, without the alternatives; None when none does."""
    return _best([_size(option, demand) for option in _options(profile)])


def _best(settings: Sequence[Setting]) -> Setting | None:
    """The fewest replicas; of those with about the lowest p99 the one with the most room, and of those the smallest batch."""
    possible = [setting for setting in settings if setting.replicas is not None]
    if not possible:
        return None
    fewest = [setting for setting in possible if setting.replicas == min(candidate.replicas or 0 for candidate in possible)]
    lowest = min(setting.p99_ms or 0.0 for setting in fewest)
    fastest = [setting for setting in fewest if (setting.p99_ms or 0.0) <= _AS_FAST * lowest]
    roomy = min(setting.utilization or 0.0 for setting in fastest)
    return min(
        (setting for setting in fastest if (setting.utilization or 0.0) <= _AS_ROOMY * roomy),
        key=lambda setting: setting.max_batch,
    )


def rescale(profile: ServingProfile, setting: Setting, demand: Demand) -> Setting:
    """Return the same way to serve, sized anew, for a profile or a demand that is slightly different."""
    return _size(_option(profile, setting), demand)


def max_rate(profile: ServingProfile, setting: Setting, demand: Demand) -> float:
    """The largest rate in requests per second that one replica holds within p99 and load."""
    option = _option(profile, setting)
    limit = demand.p99_ms if demand.p99_ms is not None else math.inf
    return largest_rate(
        option.service, option.policy, limit, max_utilization=demand.max_utilization, arrivals=demand.arrivals, requests=_QUICK
    )


def _option(profile: ServingProfile, setting: Setting) -> _Option:
    group = profile.instance_group(setting.instances, setting.threads)
    policy = Policy(setting.max_batch, setting.queue_delay_us / 1e3, instances=setting.instances)
    return _Option(group, service_of(profile, group, setting.max_batch), policy)


def service_of(profile: ServingProfile, group: InstanceGroup, max_batch: int) -> Service:
    """Return the service times of a measured instance group up to a batch size, as this server runs batches."""
    service = Service.of(group).capped(max_batch)
    return service.padded() if profile.pads else service


def _options(profile: ServingProfile) -> Iterable[_Option]:
    for group in profile.instance_groups:
        sizes = sorted(entry.batch for entry in group.concurrent)
        for cap in sizes if profile.batches else sizes[:1]:
            capped = service_of(profile, group, cap if profile.batches else 1)
            yield _Option(group, capped, Policy(capped.max_batch, instances=group.instances))


def _size(option: _Option, demand: Demand) -> Setting:
    """The fewest replicas of an option that hold the demand."""
    capacity = option.service.capacity(option.policy)
    for_load = max(1, math.ceil(demand.rate / (capacity * demand.max_utilization) - 1e-9))
    limit = demand.p99_ms
    if limit is None:
        return option.setting(for_load, _simulated(option, demand, for_load), "utilization")
    if float(option.service.table[0, 0].mean()) > limit:
        return option.setting(None, None, f"one request alone takes more than {limit:g} ms")
    fewest = _fewest(option, demand, for_load, limit)
    if fewest is None:
        return option.setting(None, None, f"no number of replicas keeps {limit:g} ms")
    replicas, seen = fewest
    return option.setting(replicas, seen, "utilization" if replicas == for_load else "p99")


def _fewest(option: _Option, demand: Demand, least: int, limit: float) -> tuple[int, Forecast] | None:
    """Double until the p99 holds, then halve the gap: more replicas never make it worse."""
    high, step = least, 1
    while (at_high := _simulated(option, demand, high)).p99.value > limit:
        if high >= _MOST_REPLICAS:
            return None
        high, step = min(_MOST_REPLICAS, high + step), step * 2
    low = max(least - 1, high - step // 2 - 1)
    while high - low > 1:
        middle = (low + high) // 2
        seen = _simulated(option, demand, middle)
        low, high, at_high = (low, middle, seen) if seen.p99.value <= limit else (middle, high, at_high)
    return high, at_high


def _simulated(option: _Option, demand: Demand, replicas: int, requests: int = _QUICK) -> Forecast:
    policy = dataclasses.replace(option.policy, replicas=replicas, balancer=demand.balancer)
    return simulate(option.service, demand.rate, policy, arrivals=demand.arrivals, requests=requests)


def _with_delay(option: _Option, demand: Demand, chosen: Setting) -> tuple[Setting | None, _Option]:
    """The best queue delay for an option, if one saves a replica; a few shares of the time of its largest batch are tried."""
    base = option.service.mean_ms(option.policy.max_batch)
    if option.policy.max_batch == 1:
        return None, option
    for share in (0.1, 0.3, 1.0):
        delayed = dataclasses.replace(option, policy=dataclasses.replace(option.policy, delay_ms=share * base))
        setting = _size(delayed, demand)
        if setting.replicas is not None and chosen.replicas is not None and setting.replicas < chosen.replicas:
            return setting, delayed
    return None, option


def _rule_of_thumb(profile: ServingProfile, demand: Demand) -> Setting | None:
    """What the usual advice takes: one instance with all threads, 32 requests or 10 ms."""
    group = profile.instance_groups[0]
    cap = min(_RULE_BATCH, max(entry.batch for entry in group.concurrent))
    if not profile.batches or cap == 1:
        return None
    policy = Policy(cap, delay_ms=_RULE_DELAY_US / 1e3, instances=group.instances)
    return _size(_Option(group, service_of(profile, group, cap), policy), demand)


def _answer(option: _Option, demand: Demand, chosen: Setting, settings: Sequence[Setting], rule: Setting | None) -> Batching:
    assert chosen.replicas is not None
    needed = chosen.replicas
    policy = dataclasses.replace(option.policy, replicas=needed, balancer=demand.balancer)
    predicted = forecast(option.service, demand.rate, policy, arrivals=demand.arrivals)
    if demand.p99_ms is not None and predicted.p99.value > demand.p99_ms:  # the screening was lucky
        needed += 1
        policy = dataclasses.replace(policy, replicas=needed)
        predicted = forecast(option.service, demand.rate, policy, arrivals=demand.arrivals)
    everyone = dataclasses.replace(policy, replicas=needed + demand.spare_replicas)
    limit = demand.p99_ms if demand.p99_ms is not None else math.inf
    most = largest_rate(option.service, everyone, limit, arrivals=demand.arrivals)
    return Batching(
        max_batch=chosen.max_batch,
        queue_delay_us=chosen.queue_delay_us,
        instances=chosen.instances,
        threads=chosen.threads,
        replicas=needed + demand.spare_replicas,
        spare_replicas=demand.spare_replicas,
        predicted_p99_ms=round(predicted.p99.value, 3),
        p99=predicted.p99,
        mean_batch=round(predicted.mean_batch, 2),
        utilization=round(predicted.utilization, 4),
        rate=demand.rate,
        limited_by=chosen.limited_by,
        arrivals=str(demand.arrivals),
        headroom=round(most / demand.rate, 3),
        burst_p99_ms=round(simulate(option.service, demand.rate, everyone, arrivals=BURSTS).p99.value, 3),
        peak_qps=round(most / everyone.replicas, 3),
        alternatives=tuple(settings),
        rule_of_thumb=rule,
    )


def _impossible(profile: ServingProfile, demand: Demand, settings: Sequence[Setting]) -> Batching:
    fallback = _by_throughput(profile)
    said = f"no setting keeps a p99 of {demand.p99_ms:g} ms on this machine"
    return fallback.model_copy(update={"rate": demand.rate, "limited_by": said, "alternatives": tuple(settings)})


def _largest(profile: ServingProfile, p99_ms: float, max_utilization: float, arrivals: Arrivals) -> Batching:
    """Settings under which one replica holds the largest rate within the p99."""
    best: tuple[float, _Option] | None = None
    for option in _options(profile):
        rate = largest_rate(
            option.service, option.policy, p99_ms, max_utilization=max_utilization, arrivals=arrivals, requests=_QUICK
        )
        if best is None or rate > 1.01 * best[0]:
            best = rate, option
    assert best is not None
    rate, option = best
    if rate == 0:
        said = f"no setting keeps a p99 of {p99_ms:g} ms on this machine"
        return _by_throughput(profile).model_copy(update={"limited_by": said})
    return Batching(
        max_batch=option.policy.max_batch,
        queue_delay_us=0,
        instances=option.policy.instances,
        threads=option.instance_group.threads,
        replicas=1,
        predicted_p99_ms=None,
        utilization=None,
        rate=None,
        limited_by="the largest rate within the p99: no rate was given",
        arrivals=str(arrivals),
        peak_qps=round(rate, 3),
    )


def _by_throughput(profile: ServingProfile, *, throughput: bool = False) -> Batching:
    """Return the settings of a replica whose traffic is not known.

    Where the server pads, a batch makes each lone request as slow as a full one, which only ``throughput`` is worth.
    """
    group = profile.instance_groups[0]
    alone = profile.pads and not throughput
    entries = group.concurrent if profile.batches and not alone else group.concurrent[:1]
    best = max(entry.throughput for entry in entries)
    cap = next(entry.batch for entry in entries if entry.throughput >= 0.95 * best)
    return Batching(
        max_batch=cap if profile.batches else 1,
        queue_delay_us=0,
        instances=group.instances,
        threads=group.threads,
        replicas=1,
        predicted_p99_ms=None,
        utilization=None,
        rate=None,
        limited_by="the latency of a lone request: this server pads batches, and no rate was given"
        if alone
        else "throughput: no rate was given",
    )
