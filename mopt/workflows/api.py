"""The verbs that ``import mopt`` offers besides ``build`` and ``verify``: what the commands do, with Python's values.

Keywords that are no parameters are keys of the recipe, as for ``mopt.build``: ``metric="accuracy"``,
``gate={"limits": {"p99": "+5%"}}``; of its section ``traffic`` for :func:`bench` and :func:`size`: ``rate=1000, p99="100ms"``.
"""

from __future__ import annotations

__all__ = ["bench", "explain", "gate", "size"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mopt.artifacts.baseline import DEFAULT_FILE
from mopt.errors import UserError
from mopt.progress import Progress
from mopt.recipe import make_traffic
from mopt.records.benchmark import Benchmark, ServerBenchmark
from mopt.records.explanation import Explanation
from mopt.records.sizing import Sizing
from mopt.records.verdict import GateVerdict
from mopt.storage._fetch import fetched
from mopt.workflows._recipes import gate_recipe
from mopt.workflows.any_model import run_gate
from mopt.workflows.bench import bench_artifact, make_load_plan
from mopt.workflows.bench_server import ServerAccess, bench_server
from mopt.workflows.explain import explain as explain_layers
from mopt.workflows.explain import read_layers_request
from mopt.workflows.size import make_sizing_request, read_profiled_models
from mopt.workflows.size import size as compare_machines


def gate(
    candidate: str | Path,
    against: str | Path = DEFAULT_FILE,
    *,
    recipe: str | Path | None = None,
    speed: bool = True,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> GateVerdict:
    """Decide whether a candidate is as good as a baseline, and costs no more: ``mopt gate``.

    Args:
        candidate: An artifact or a model.
        against: The same, or a file of ``mopt baseline set``.
        recipe: A recipe file; default: the artifact's.
        speed: Whether costs are measured.
        out: Folder that the worst samples are written to.
        progress: Receives the stages.
        **values: Keys of the recipe, which come before the file's and the artifact's.

    Returns:
        The verdict: ``.verdict`` is pass, fail or inconclusive, ``.checks`` says why.

    Raises:
        UserError: When the two cannot be compared.
    """
    file = Path(recipe) if recipe is not None else None
    candidate, against = fetched(candidate, progress), fetched(against, progress)
    checked, use_all_samples = gate_recipe(candidate, against, file, values)
    return run_gate(
        candidate, against, checked, use_all_samples=use_all_samples, speed=speed,
        out=Path(out) if out is not None else None, progress=progress,
    )  # fmt: skip


def explain(
    source: str | Path,
    *,
    candidate: str | Sequence[str] = (),
    batch: int = 1,
    effects: int = 0,
    progress: Progress | None = None,
    **values: Any,
) -> Explanation:
    """Show layer by layer what quantization does: ``mopt explain``.

    Args:
        source: A model or an artifact.
        candidate: Pattern or patterns; the first match that quantizes is looked at. Default: the one that was chosen.
        batch: Batch size to time at.
        effects: For how many of the noisiest layers the change of the metric is evaluated.
        progress: Receives the stages.
        **values: Keys of the recipe, which come before the artifact's.

    Raises:
        UserError: When there is no such candidate, or it does not quantize.
        CandidateRejectedError: When it cannot be compiled or run.
    """
    patterns = (candidate,) if isinstance(candidate, str) else tuple(candidate)
    request = read_layers_request(str(source), values, patterns)
    return explain_layers(
        request.recipe,
        request.candidates,
        float_nodes=request.float_nodes,
        batch=batch,
        effects=effects,
        progress=progress,
    )


def bench(
    artifact: str | Path,
    *,
    data: str | None = None,
    max_batch: int | None = None,
    cores: int | None = None,
    duration: str = "10s",
    server: str | ServerAccess | None = None,
    progress: Progress | None = None,
    **traffic: Any,
) -> Benchmark | ServerBenchmark:
    """Profile an artifact again here, and put it, or a server that runs it, under an open-loop load: ``mopt bench``.

    Args:
        artifact: A folder that ``mopt build`` wrote.
        data: Samples to send; default: its golden samples.
        max_batch: Largest batch size to measure.
        cores: Of the replica, or of the generator of the load; default: all.
        duration: Length of one load test, with its unit.
        server: URL of a running server, or more about it.
        progress: Receives the stages.
        **traffic: ``rate`` in requests per second, ``p99`` such as ``"100ms"``, ``arrivals``.

    Raises:
        UserError: When it is no artifact, its files are not those that were built, or the server answers something else.
        CandidateRejectedError: When the runtime fails on it here.
    """
    load = make_load_plan(artifact, make_traffic(traffic), data=data, duration=duration, cores=cores)
    if server is None:
        return bench_artifact(artifact, load, max_batch=max_batch, progress=progress)
    if max_batch is not None:
        raise UserError("max_batch is about an own replica, and server measures none", "leave out one of them")
    access = ServerAccess(server) if isinstance(server, str) else server
    return bench_server(artifact, access, load, progress=progress)


def size(
    *sources: str | Path,
    compare: Sequence[str] = ("*",),
    this_machine: str | None = None,
    price: float | None = None,
    max_cost: float | None = None,
    daily: Sequence[float] = (),
    balancer: Literal["random", "round robin", "least loaded"] = "random",
    progress: Progress | None = None,
    **traffic: Any,
) -> Sizing:
    """Say which machines, how many and for how much money hold a traffic: ``mopt size``.

    Args:
        *sources: Artifacts that were built with a rate or a p99, or files of ``mopt bench --out``.
        compare: Patterns of machines to compare.
        this_machine: The target that this machine is, for its price and for projections.
        price: Of this machine, in USD per hour.
        max_cost: Most USD that a month may cost.
        daily: Requests per second in each of 24 hours.
        balancer: How requests are spread over replicas.
        progress: Receives the stages.
        **traffic: ``rate``, ``p99``, ``arrivals``, ``spare``, ``utilization``.

    Raises:
        UserError: When a source has no profile, or the rate is missing.
    """
    if not sources:
        raise UserError("nothing to size", "give an artifact, or a file of mopt bench --out")
    request = make_sizing_request(
        make_traffic(traffic), compare=compare, this_machine=this_machine, price=price, max_cost=max_cost, daily=daily,
        balancer=balancer,
    )  # fmt: skip
    subjects = [subject for source in sources for subject in read_profiled_models(source, progress)]
    return compare_machines(subjects, request, progress=progress)
