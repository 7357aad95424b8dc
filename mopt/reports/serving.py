"""How an artifact should be served, and what a replica can do, as text."""

from __future__ import annotations

__all__ = ["batching_facts", "capacity_facts", "serving_sentence", "setting_rows"]

import math

from mopt.records import units as q
from mopt.records.serving import Batching, ServingProfile, Setting
from mopt.reports.rendering import NONE, Fact


def serving_sentence(batching: Batching) -> str:
    """Say the batch settings in one line."""
    spare_replicas = f" ({batching.spare_replicas} of them may be lost)" if batching.spare_replicas else ""
    delay = q.milliseconds(batching.queue_delay_us / 1e3) if batching.queue_delay_us else "no"
    parts = [
        f"batches up to {batching.max_batch}, {q.count(batching.instances, 'instance')}"
        + (f" of {q.count(batching.threads, 'thread')}" if batching.threads else ""),
        f"{delay} queue delay",
        f"{q.count(batching.replicas, 'server')}{spare_replicas}",
    ]
    if batching.predicted_p99_ms is not None and batching.utilization is not None:
        p99 = q.milliseconds(batching.predicted_p99_ms)
        parts.append(f"predicted p99 {p99} at {batching.utilization:.0%} utilization, without the server's own time")
    if batching.rate is None and batching.peak_qps is not None:
        parts.append(f"up to {q.rate(batching.peak_qps)} within the p99")
    return f"{'; '.join(parts)} (decided by {batching.limited_by})"


def batching_facts(batching: Batching) -> list[Fact]:
    """Return the batch settings, what they were planned for, and what is predicted of them."""
    threads = f", {q.count(batching.threads, 'thread')} each" if batching.threads else ""
    spare_replicas = f", of which {batching.spare_replicas} may be lost" if batching.spare_replicas else ""
    facts = [
        Fact("largest batch", str(batching.max_batch)),
        Fact("queue delay", q.milliseconds(batching.queue_delay_us / 1e3) if batching.queue_delay_us else "none"),
        Fact("instances on a server", f"{batching.instances}{threads}"),
        Fact("servers", f"{batching.replicas}{spare_replicas}"),
    ]
    if batching.rate is not None:
        arrivals = f", {batching.arrivals}" if batching.arrivals else ""
        facts.append(Fact("planned for", f"{q.digits(batching.rate)} requests per second{arrivals}"))
    if batching.utilization is not None:
        facts.append(Fact("utilization", f"{q.digits(batching.utilization * 100)} % of capacity"))
    if batching.predicted_p99_ms is not None:
        facts.append(Fact("predicted p99", f"{q.milliseconds(batching.predicted_p99_ms)}, without the server's own time"))
    if batching.burst_p99_ms is not None:
        facts.append(Fact("p99 in bursts of 3 times the rate", q.milliseconds(batching.burst_p99_ms)))
    if batching.headroom is not None:
        facts.append(Fact("holds up to", f"{q.digits(batching.headroom)} times that rate"))
    if batching.peak_qps is not None:
        facts.append(Fact("largest rate of one server", f"{q.digits(batching.peak_qps)} requests per second"))
    return [*facts, Fact("decided by", batching.limited_by)]


def setting_rows(batching: Batching) -> list[dict[str, str]]:
    """Return the table of alternatives: every setting that was weighed, the cheapest first, and the rule of thumb last."""
    ranked = sorted(batching.alternatives, key=lambda setting: (setting.replicas or math.inf, setting.p99_ms or math.inf))
    rows = [_setting_row(setting, batching, "") for setting in ranked]
    return rows + ([_setting_row(batching.rule_of_thumb, batching, "rule of thumb")] if batching.rule_of_thumb else [])


def _setting_row(setting: Setting, batching: Batching, name: str) -> dict[str, str]:
    same = (setting.max_batch, setting.queue_delay_us, setting.instances) == (
        batching.max_batch, batching.queue_delay_us, batching.instances,
    )  # fmt: skip
    needed = batching.replicas - batching.spare_replicas
    dearer = f": {setting.replicas / needed:.2g} times the servers" if setting.replicas and name else ""
    return {
        "": (name + dearer) or ("chosen" if same else ""),
        "Largest batch": str(setting.max_batch),
        "Queue delay": q.milliseconds(setting.queue_delay_us / 1e3) if setting.queue_delay_us else "none",
        "Instances": f"{setting.instances} of {q.count(setting.threads, 'thread')}",
        "Servers": str(setting.replicas) if setting.replicas is not None else NONE,
        "p99": q.milliseconds(setting.p99_ms) if setting.p99_ms is not None else NONE,
        "Utilization": f"{q.digits(setting.utilization * 100, 2)} %" if setting.utilization is not None else NONE,
        "Mean batch": q.digits(setting.mean_batch) if setting.mean_batch is not None else NONE,
        "Decided by": setting.limited_by,
    }


def capacity_facts(profile: ServingProfile | None) -> list[Fact]:
    """Return what was measured of a replica; nothing where none was."""
    if profile is None:
        return []
    facts = [
        Fact("cold start", f"{q.milliseconds(profile.load_ms)} to load, {q.milliseconds(profile.first_ms)} to answer first"),
        Fact("steady after", q.milliseconds(profile.warm_ms)),
        Fact("memory", ", ".join(f"{q.memory(size)} up to batch {batch}" for batch, size in profile.memory.items() if size)),
    ]
    for group in profile.instance_groups[1:]:
        first, single = group.concurrent[0].p50.value, group.solo[0].p50.value
        facts.append(
            Fact(
                f"{group.instances} instances",
                f"of {q.count(group.threads, 'thread')}: batch {group.concurrent[0].batch} takes {q.milliseconds(single)} "
                f"alone and {q.milliseconds(first)} when all work",
            )
        )
    if profile.padding is not None:
        facts.append(Fact("padding", f"{q.digits(profile.padding * 100, 2)} % of the work when mixed requests share a batch"))
    noise = ", ".join(f"{name} {q.digits(value)}" for name, value in profile.noise.items())
    return [*facts, Fact("machine meanwhile", noise or "not known")]
