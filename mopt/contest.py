"""What a candidate costs beside a baseline: speed, memory, loading, size.

Both run in turns, the baseline a second time as a control. An interval is widened by how far the baseline was from itself,
so that a noisy machine leaves a question open and accuses nobody; and a failure has to be seen twice. What is open after a
look gets more rounds; the error is shared out over the looks (Bonferroni), since each is another chance to be wrong.

A stored baseline does not run. When it was stored, and now again, a small fixed network (the yardstick) runs beside the
model: what is compared are two ratios to it, so that a faster or slower hour of the same machine cancels out.
"""

from __future__ import annotations

__all__ = [
    "CANDIDATE",
    "YARDSTICK",
    "Contest",
    "Field",
    "cost_checks",
    "load_times",
    "measure_beside",
    "size_check",
    "yardstick",
]

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from mopt.artifacts.baseline import Baseline
from mopt.artifacts.manifest import Estimate, LayerCost, Machine
from mopt.artifacts.model import Feed, Model
from mopt.artifacts.samples import Samples, batch_feeds
from mopt.artifacts.store import Store, default_root
from mopt.artifacts.verdict import Check, LayerPair, Verdict
from mopt.errors import CandidateRejectedError
from mopt.evaluators.limit import COSTS, Limit
from mopt.plan import reference_candidate
from mopt.profiles.compare import COMPARED, FEWEST, figure, growth, widened
from mopt.profiles.measure import TurnLog, interleave
from mopt.progress import Progress
from mopt.runtimes._base import SessionProcess
from mopt.sides import Contestant

CANDIDATE, BASELINE, CONTROL, YARDSTICK = "candidate", "baseline", "baseline again", "yardstick"
_LOOKS = 3
_ROUNDS = 15
_LOADS = 5
_SLOW_LOAD_SECONDS = 5.0
_SHOWN_LAYERS = 30
_USUAL_LIMITS = {"p50": "+10%"}
"""Limits where none is given: a tenth is more than a machine in CI wavers in an interleaved run."""
_YARDSTICK_ERROR = 0.05
"""Share by which the ratio of a model to the yardstick moves between quiet hours of one machine: the two do not lean on
memory and arithmetic alike."""


@dataclasses.dataclass(frozen=True)
class Field:
    """Who competes, and how.

    Attributes:
        candidate: The new one.
        baseline: The other one; None when only its figures are stored.
        stored: Those figures.
        samples: Real inputs.
        batches: Batch sizes to compare at.
        confidence: Of a verdict on one cost.
        budget_seconds: For all batch sizes together.
    """

    candidate: Contestant
    baseline: Contestant | None
    stored: Baseline | None
    samples: Samples
    batches: tuple[int, ...]
    confidence: float
    budget_seconds: float


@dataclasses.dataclass(frozen=True)
class Contest:
    """What was measured: checks, warnings, how far the baseline was from itself at the first batch size, and the layers."""

    checks: list[Check]
    warnings: list[str]
    control: Estimate | None
    layers: tuple[LayerPair, ...] = ()


def cost_checks(field: Field, limits: Mapping[str, str], machine: Machine, progress: Progress) -> Contest:
    """Compare all costs but the size; those without a limit are shown and do not count."""
    asked = {name: Limit.parse(text, name) for name, text in limits.items() if name in COSTS}
    speed_is_limited = any(name in COMPARED for name in asked)
    if not speed_is_limited:
        asked |= {name: Limit.parse(text, name) for name, text in _USUAL_LIMITS.items()}
    checks: list[Check] = []
    warnings: list[str] = []
    if field.stored is not None and not field.stored.comparable_here(machine):
        was = field.stored.machine
        warnings.append(
            f"speed, memory and loading are not compared: the baseline was measured on {was.cpu} with {was.cores} cores, "
            f"and this is {machine.cpu} with {machine.cores}"
        )
        open_costs = [name for name in asked if name != "size" and (name in limits)]
        checks += [_refused(name, asked[name], field.confidence) for name in open_costs]
        return Contest(checks, warnings, None)
    progress.stage("measuring side by side", len(field.batches) * _LOOKS + 1)
    found, control = _speed(field, asked, progress)
    checks += found
    checks += _loading(field, asked)
    progress.step("loaded several times")
    return Contest(checks, warnings, control, _layers(field))


# --- speed and memory ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Logs:
    """Turns so far, by contestant."""

    by_name: dict[str, list[tuple[float, ...]]] = dataclasses.field(default_factory=dict)

    def add(self, found: Mapping[str, TurnLog]) -> None:
        for name, log in found.items():
            self.by_name.setdefault(name, []).extend(log.turns)

    def of(self, name: str) -> TurnLog:
        return TurnLog(tuple(self.by_name[name]))


def _speed(field: Field, asked: Mapping[str, Limit], progress: Progress) -> tuple[list[Check], Estimate | None]:
    checks: list[Check] = []
    first_control = None
    with contextlib.ExitStack() as stack:
        opened = _open(field, stack)
        share = field.budget_seconds / len(field.batches)
        for batch in field.batches:
            found, control = _at_batch(field, opened, batch, asked, share, progress)
            checks += found
            first_control = first_control or control
        checks += _memory(field, opened, asked.get("memory"))
    return checks, first_control


def _open(field: Field, stack: contextlib.ExitStack) -> dict[str, SessionProcess]:
    opened = {CANDIDATE: stack.enter_context(field.candidate.open())}
    if field.baseline is not None:
        opened[BASELINE] = stack.enter_context(field.baseline.open())
        opened[CONTROL] = stack.enter_context(field.baseline.open())
    else:
        opened[YARDSTICK] = stack.enter_context(yardstick(field.candidate.runtime.threads))
    return opened


def _at_batch(
    field: Field,
    opened: Mapping[str, SessionProcess],
    batch: int,
    asked: Mapping[str, Limit],
    seconds: float,
    progress: Progress,
) -> tuple[list[Check], Estimate | None]:
    """Look up to three times, until everything that is limited is decided.

    A failure takes two looks in a row that see it by themselves: a burst of somebody else's work spoils one.
    """
    feeds = batch_feeds(field.candidate.signature, field.samples, batch)
    confidence = 1 - (1 - field.confidence) / _LOOKS
    logs, control = _Logs(), None
    checks: list[Check] = []
    before: set[str] = set()
    end = time.monotonic() + seconds
    for look in range(_LOOKS):
        fresh, rounds = _Logs(), _ROUNDS * 2**look
        fresh.add(_take_turns(opened, feeds, rounds, seed=look, budget=max(1.0, end - time.monotonic())))
        logs.add({name: fresh.of(name) for name in fresh.by_name})
        seen, _ = _compare(field, fresh, batch, asked, confidence)
        failing = {check.name for check in seen if check.verdict == "fail"}
        checks, control = _compare(field, logs, batch, asked, confidence)
        checks = [_confirmed(check, failing & before) for check in checks]
        before = failing
        progress.step(_told(checks, batch))
        if time.monotonic() > end or all(check.verdict != "inconclusive" for check in checks if check.counts):
            break
    return checks, control


def _confirmed(check: Check, failing: Set[str]) -> Check:
    if check.verdict != "fail" or check.name in failing:
        return check
    return check.model_copy(update={"verdict": "inconclusive", "note": f"{check.note}; seen once only".removeprefix("; ")})


def _take_turns(
    opened: Mapping[str, SessionProcess], feeds: Sequence[Feed], rounds: int, *, seed: int, budget: float
) -> dict[str, TurnLog]:
    if YARDSTICK not in opened:
        return interleave(opened, feeds, rounds=rounds, seed=seed, budget_seconds=budget)
    return measure_beside(opened[CANDIDATE], opened[YARDSTICK], feeds, rounds=rounds, seed=seed, budget_seconds=budget)


def measure_beside(
    model: SessionProcess, stick: SessionProcess, feeds: Sequence[Feed], *, rounds: int, seed: int, budget_seconds: float
) -> dict[str, TurnLog]:
    """Let a model and the yardstick take turns, each with inputs of its own."""

    class _OwnInputs:
        def time(self, _: Sequence[Feed], seconds: float, least: int = 1) -> list[float]:
            return stick.time(_stick_feeds(), seconds, least)

        def pause(self) -> None:
            stick.pause()

        def resume(self) -> None:
            stick.resume()

    return interleave(
        {CANDIDATE: model, YARDSTICK: _OwnInputs()}, feeds, rounds=rounds, seed=seed, budget_seconds=budget_seconds
    )  # fmt: skip


def _compare(
    field: Field, logs: _Logs, batch: int, asked: Mapping[str, Limit], confidence: float
) -> tuple[list[Check], Estimate | None]:
    own = logs.of(CANDIDATE)
    checks = []
    first_control = None
    for cost in COMPARED:
        control = None
        if field.baseline is not None:
            of = logs.of(BASELINE)
            control = growth(logs.of(CONTROL), of, cost, confidence)
            change, base = growth(own, of, cost, confidence), figure(of, cost, batch)
            method = "interleaved"
        else:
            assert field.stored is not None
            known = field.stored.speed_at(batch)
            if known is None:
                continue
            change = _beside_stick(growth(own, logs.of(YARDSTICK), cost, confidence), known.growth[cost])
            base = known.figures[cost]
            method = "both beside the same yardstick"
        first_control = first_control or control
        note = f"the baseline against itself: {control.value:+.1%}" if control is not None else ""
        checks.append(
            _cost_check(
                f"{cost} at batch {batch}",
                "speed",
                cost,
                figure(own, cost, batch),
                base,
                widened(change, control),
                asked.get(cost),
                confidence,
                method,
                note,
            )
        )
    return checks, first_control


def _beside_stick(now: Estimate, then: Estimate) -> Estimate:
    """Candidate over baseline less 1, from the growth of each over the yardstick."""
    value = (1 + now.value) / (1 + then.value)
    spread = math.hypot(_half(now), _half(then)) + _YARDSTICK_ERROR
    return Estimate(value=value - 1, low=value * (1 - spread) - 1, high=value * (1 + spread) - 1, count=now.count)


def _half(change: Estimate) -> float:
    return (change.high - change.low) / 2 / (1 + change.value)


def _cost_check(
    name: str,
    kind: str,
    cost: str,
    candidate: float,
    baseline: float,
    change: Estimate,
    limit: Limit | None,
    confidence: float,
    method: str,
    note: str = "",
) -> Check:
    allowed = limit.allowed(baseline) if limit is not None else None
    return Check.model_validate(
        {
            "name": name, "kind": kind, "unit": COSTS[cost], "candidate": candidate, "baseline": baseline,
            "change": change, "relative": True, "limit": limit.text if limit else "", "allowed": allowed,
            "confidence": confidence, "verdict": _decide(change, allowed, FEWEST.get(cost, 1)), "counts": limit is not None,
            "method": method, "note": note,
        }
    )  # fmt: skip


def _decide(change: Estimate, allowed: float | None, fewest: int) -> Verdict:
    if allowed is None:
        return "pass"
    if change.count < fewest:
        return "inconclusive"
    if change.low > allowed:
        return "fail"
    return "pass" if change.high <= allowed else "inconclusive"


def _told(checks: Sequence[Check], batch: int) -> str:
    shown = next((check for check in checks if check.counts), checks[0] if checks else None)
    return f"batch {batch}: {shown.name.split()[0]} {shown.change.value:+.1%}" if shown else f"batch {batch}"


def _memory(field: Field, opened: Mapping[str, SessionProcess], limit: Limit | None) -> list[Check]:
    own = float(opened[CANDIDATE].peak_bytes())
    control = None
    if field.baseline is not None:
        base = float(opened[BASELINE].peak_bytes())
        other = float(opened[CONTROL].peak_bytes()) / base - 1 if base else 0.0
        control = Estimate(value=other, low=other, high=other, count=1)
    else:
        assert field.stored is not None
        base = float(field.stored.memory_bytes)
    if not own or not base:
        return []
    change = own / base - 1
    exact = Estimate(value=change, low=change, high=change, count=1)
    note = "largest resident memory of the process, runtime included"
    return [_cost_check("memory", "memory", "memory", own, base, widened(exact, control), limit, field.confidence, "", note)]


# --- loading and size ---------------------------------------------------------------------------------------------------


def load_times(contestant: Contestant, feed: Feed) -> tuple[float, float]:
    """Return the time to load and that of the first inference, in ms, in a fresh process."""
    with contestant.open() as session:
        session.run(feed)
        return session.load_ms(), session.first_ms()


def _loading(field: Field, asked: Mapping[str, Limit]) -> list[Check]:
    """Load both several times, in turns."""
    (feed, *_) = batch_feeds(field.candidate.signature, field.samples, field.candidate.signature.batch_size or 1, count=1)
    own, other = [], []
    start = time.monotonic()
    for index in range(_LOADS):
        own.append(load_times(field.candidate, feed))
        if field.baseline is not None:
            other.append(load_times(field.baseline, feed))
        if index >= 2 and time.monotonic() - start > _SLOW_LOAD_SECONDS:
            break
    checks = []
    for position, cost in enumerate(("load", "first")):
        mine = [times[position] for times in own]
        if field.baseline is not None:
            theirs = [times[position] for times in other]
        else:
            assert field.stored is not None
            theirs = [field.stored.load_ms, field.stored.first_ms][position : position + 1] * len(mine)
        base = statistics.median(theirs)
        if not base:
            continue
        ratios = sorted(one / of - 1 for one, of in zip(mine, theirs, strict=True) if of)
        value = statistics.median(mine) / base - 1
        change = Estimate(value=value, low=min(ratios[0], value), high=max(ratios[-1], value), count=len(ratios))
        name = {"load": "load time", "first": "first inference"}[cost]
        checks.append(
            _cost_check(
                name, "load", cost, statistics.median(mine), base, change, asked.get(cost), field.confidence, "in turns"
            )
        )
    return checks


def _layers(field: Field) -> tuple[LayerPair, ...]:
    """What each operator takes in either side, by the names that both know; nothing where a runtime does not tell."""
    size = field.candidate.signature.batch_size or 1
    (feed, *_) = batch_feeds(field.candidate.signature, field.samples, size, count=1)
    found: list[dict[str, LayerCost]] = []
    for side in (field.candidate, field.baseline):
        costs: dict[str, LayerCost] = {}
        with contextlib.suppress(CandidateRejectedError):
            if side is not None:
                with side.open() as session:
                    session.run(feed)
                    costs = {name: layer for layer in reversed(session.layers(feed)) for name in layer.name.split(",")}
        found.append(costs)
    own, other = found

    def dearest(name: str) -> float:
        return max(costs[name].ms if name in costs else 0.0 for costs in found)

    shown = sorted({**other, **own}, key=dearest, reverse=True)[:_SHOWN_LAYERS]
    return tuple(
        LayerPair(
            name=name,
            kind=(own.get(name) or other[name]).kind,
            arithmetic=own[name].arithmetic if name in own else "",
            candidate_ms=own[name].ms if name in own else None,
            baseline_ms=other[name].ms if name in other else None,
        )
        for name in shown
    )


def size_check(field: Field, limits: Mapping[str, str]) -> Check:
    """Compare the bytes on disk, which takes no measuring."""
    limit = Limit.parse(limits["size"], "size") if "size" in limits else None
    own = float(field.candidate.model.size)
    base = float(field.baseline.model.size if field.baseline is not None else field.stored.size_bytes if field.stored else own)
    change = own / base - 1 if base else 0.0
    return _cost_check(
        "size", "size", "size", own, base, Estimate(value=change, low=change, high=change, count=1), limit, 1.0, "exact"
    )


def _refused(cost: str, limit: Limit, confidence: float) -> Check:
    return Check(
        name=cost, kind="speed", unit=COSTS[cost], candidate=0.0, baseline=0.0,
        change=Estimate(value=0.0, low=0.0, high=0.0, count=0), relative=True, limit=limit.text, confidence=confidence,
        verdict="inconclusive", note="the baseline was measured on another machine",
    )  # fmt: skip


# --- the yardstick ------------------------------------------------------------------------------------------------------

_STICK_WIDTH = 384


def yardstick(threads: int) -> SessionProcess:
    """Load the yardstick: matrix products and a convolution of fixed size, by ONNX Runtime in FP32."""
    store = Store(default_root())
    folder, _ = store.get("yardstick", {"width": _STICK_WIDTH, "version": 1}, _write_stick)
    model = Model("onnx", folder / "model", "yardstick")
    return SessionProcess(reference_candidate(threads).runtime, model)


def _stick_feeds() -> list[Feed]:
    import numpy as np

    random = np.random.default_rng(0)
    return [
        {
            "x": random.standard_normal((32, _STICK_WIDTH)).astype(np.float32),
            "picture": random.standard_normal((1, 16, 32, 32)).astype(np.float32),
        }
    ]


def _write_stick(folder: Path) -> None:
    import numpy as np
    import onnx
    import onnx.numpy_helper
    import onnx.parser

    width, random = _STICK_WIDTH, np.random.default_rng(0)
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        yardstick (float[32, {width}] x, float[1, 16, 32, 32] picture) => (float[32, {width}] y, float[1, 32, 32, 32] z)
        {{ a = MatMul (x, w0) b = Relu (a) y = MatMul (b, w1) z = Conv <pads = [1, 1, 1, 1]> (picture, k) }}
    """)
    shapes = {"w0": (width, width), "w1": (width, width), "k": (32, 16, 3, 3)}
    for name, shape in shapes.items():
        values = (random.standard_normal(shape) / math.sqrt(shape[0])).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    (folder / "model").mkdir()
    onnx.save(model, folder / "model" / "model.onnx")
