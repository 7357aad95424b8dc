"""ONNX's own node models through a build: each ends as right, or refused with one line that says why.

python -m tests.conformance                     # every model that ONNX Runtime answers as ONNX expects
python -m tests.conformance --every 13          # a sample of them
python -m tests.conformance --operator conv     # those of one operator

A model is right when the artifact, the reference and every exact candidate give what ONNX expects at the test's own inputs, and
every other candidate is judged. So that all of them take minutes, what mopt runs in child processes runs in that which builds,
and nothing is timed; ``--children`` builds as a user does, children and clocks included.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import importlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx.backend.test.case import node as node_tests

from mopt.errors import UserError
from mopt.model.samples import write_feed
from mopt.model.signature import Feed

RIGHT, REFUSED, WRONG, TRACEBACK, HUNG, CRASHED = "right", "refused", "wrong", "traceback", "hung", "crashed"
NOT_EXPECTED = "not answered by ONNX Runtime as expected"
"""How a model may end; only the first two are well."""
CANDIDATES = ("onnxruntime-*",)
"""That are built of each model when nobody says which."""
_SAMPLES = 4
_LIMIT_SECONDS = 120.0
_ONE_AT_A_TIME = threading.RLock()
"""What child processes do beside each other is done here one after the other: not all libraries are made for threads."""
_READER = """
from pathlib import Path

from mopt.model.samples import read_feed


def samples():
    for file in sorted(Path(__file__).parent.glob("*.npz")):
        yield read_feed(file)
"""


@dataclasses.dataclass(frozen=True)
class Ending:
    """How one model ended.

    Attributes:
        name: Of the test.
        kind: One of those above.
        why: One line, where it is not right.
        failed: Candidates that mopt did not expect to fail, each with its reason.
        seconds: What it took.
    """

    name: str
    kind: str
    why: str = ""
    failed: tuple[str, ...] = ()
    seconds: float = 0.0


def collect(operators: Sequence[str] = ()) -> list[Any]:
    """Return ONNX's cases of some modules of ``onnx.backend.test.case.node``, or all; making all of them takes seconds."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if not operators:
            return list(node_tests.collect_testcases(None))
        for operator in operators:
            importlib.import_module(f"{node_tests.__name__}.{operator}")
    return list(node_tests._NodeTestCases)


def examine(case: Any, build: Callable[[Path, Feed, Any], tuple[str, ...]]) -> Ending:
    """Build one model in a folder of its own, and say how it ended."""
    start = time.monotonic()
    ending = functools.partial(_ending, case.name, start)
    inputs, outputs = (list(map(_array, values)) for values in case.data_sets[0])
    run = _onnxruntime(case.model)
    if run is None or _difference(case, outputs, run(_feed(case, inputs))):
        return ending(NOT_EXPECTED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(case.model, folder / "model.onnx")
        (folder / "data.py").write_text(_READER)
        for index, feed in enumerate(_samples(_feed(case, inputs), run)):
            write_feed(folder / f"{index}.npz", feed)
        try:
            failed = build(folder, _feed(case, inputs), functools.partial(_difference, case, outputs))
        except UserError as error:
            return ending(REFUSED, error.message.replace(name, ""))
        except _WrongError as error:
            return ending(WRONG, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            return ending(TRACEBACK, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"[:400])
        return ending(RIGHT, failed=tuple(line.replace(name, "") for line in failed))


def _ending(name: str, start: float, kind: str, why: str = "", failed: tuple[str, ...] = ()) -> Ending:
    return Ending(name, kind, " ".join(why.split()), failed, time.monotonic() - start)


class _WrongError(Exception):
    """An answer that ONNX does not expect."""


def _onnxruntime(model: onnx.ModelProto) -> Callable[[Feed], list[Any]] | None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - it has no public base class
        return None

    def run(feed: Feed) -> list[Any]:
        try:
            return list(map(_array, session.run(None, feed)))
        except Exception:  # noqa: BLE001
            return []

    return run


def _array(value: Any) -> Any:
    """Return an array for what a test, or ONNX Runtime, gives as a number or a message; a list stays one."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | int | float) else value


def _feed(case: Any, inputs: Sequence[Any]) -> Feed:
    return {value.name: array for value, array in zip(case.model.graph.input, inputs, strict=False)}


def _difference(case: Any, expected: Sequence[Any], answers: Sequence[Any]) -> str:
    """Return how answers differ from what ONNX expects, within the tolerances of the test; empty when they do not."""
    if len(answers) != len(expected):
        return f"{len(answers)} outputs instead of {len(expected)}"
    for value, expected_value, answer in zip(case.model.graph.output, expected, answers, strict=True):
        if not isinstance(expected_value, np.ndarray) or not isinstance(answer, np.ndarray):
            if type(expected_value) is not type(answer) or repr(expected_value) != repr(answer):
                return f"{value.name} is no array"
            continue
        if expected_value.shape != answer.shape:
            return f"{value.name} has shape {answer.shape} instead of {expected_value.shape}"
        if expected_value.dtype.kind in "OUS":
            same = [_text(item) for item in expected_value.ravel()] == [_text(item) for item in answer.ravel()]
        else:
            if expected_value.dtype != answer.dtype:
                return f"{value.name} is {answer.dtype} instead of {expected_value.dtype}"
            wide = np.complex128 if expected_value.dtype.kind == "c" else np.float64
            same = np.allclose(answer.astype(wide), expected_value.astype(wide), case.rtol, case.atol, equal_nan=True)
        if not same:
            return f"{value.name} differs"
    return ""


def _text(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)


def _samples(first: Feed, run: Callable[[Feed], list[Any]]) -> list[Feed]:
    """Return the test's inputs, and others that the model takes: values in other places, or smaller, one input at a time."""
    samples = [first]
    if not all(isinstance(value, np.ndarray) for value in first.values()):
        return []
    for feed in itertools.islice(_variants(first), 64):
        if len(samples) == _SAMPLES:
            break
        answers = run(feed)
        finite = all(
            isinstance(value, np.ndarray) and (value.dtype.kind != "f" or np.isfinite(value).all()) for value in answers
        )
        if answers and finite:
            samples.append(feed)
    return samples


def _variants(first: Feed) -> Iterator[Feed]:
    floats = [name for name, value in first.items() if value.dtype.kind == "f"]
    for step in (1, 2, 3):
        for name in [*floats, *(name for name in first if name not in floats)]:
            value = first[name]
            rolled = np.roll(value.ravel(), step).reshape(value.shape)
            if not np.array_equal(rolled, value):
                yield {**first, name: rolled}
        for name, value in first.items():
            if value.dtype.kind == "f" and value.any():
                yield {**first, name: np.asarray(value * 0.8**step, value.dtype)}
            elif value.dtype.kind in "iu" and value.any():
                yield {**first, name: np.asarray(value // (1 + step), value.dtype)}
            elif value.dtype.kind == "b" and step == 1:
                yield {**first, name: np.asarray(~value)}


# Building


def build_as_users_do(candidates: Sequence[str], folder: Path, feed: Feed, check: Any) -> tuple[str, ...]:
    """Build with child processes and clocks, and ask the artifact."""
    from mopt.workflows.build import build

    values = _recipe(candidates, folder)
    with _store(folder) as store:
        artifact = build(out=folder / "artifact", store=store, **values)
        _ask_artifact(artifact.folder, feed, check)
        return tuple(_failure(trial) for trial in artifact.manifest.trials if _is_failure(trial))


def build_here(candidates: Sequence[str], folder: Path, feed: Feed, check: Any) -> tuple[str, ...]:
    """Build in this process alone and without a clock: exact forms must give what is expected, and the others are judged."""
    from mopt.system.process import Worker
    from mopt.workflows import build as workflow

    judge = _Judge(feed, check)
    methods = {"__init__": _start_here, "_ask": _ask_here, "close": lambda worker: None, "peak_memory": lambda worker: 0}
    with contextlib.ExitStack() as stack:
        for name, method in methods.items():
            stack.enter_context(mock.patch.object(Worker, name, method))
        stack.enter_context(mock.patch.object(workflow, "search", judge.search))
        store = stack.enter_context(_store(folder))
        artifact = workflow.build(out=folder / "artifact", store=store, **_recipe(candidates, folder))
        _ask_artifact(artifact.folder, feed, check)
    return tuple(_failure(trial) for trial in artifact.manifest.trials if _is_failure(trial))


def _recipe(candidates: Sequence[str], folder: Path) -> dict[str, Any]:
    count = len(list(folder.glob("*.npz")))
    return {
        "model": str(folder / "model.onnx"),
        "data": {"path": f"{folder / 'data.py'}:samples", "calibration": 1, "evaluation": max(1, count - 1)},
        "search": {"candidates": list(candidates), "threads": 1, "max_batch": 1, "rounds": 5},
        "serve": [],
    }


@contextlib.contextmanager
def _store(folder: Path) -> Iterator[Any]:
    from mopt.system.store import Store

    yield Store(folder / "cache")


def _is_failure(trial: Any) -> bool:
    return trial.outcome is not None and trial.outcome.rejection in ("failed", "crashed", "hung", "not finite")


def _failure(trial: Any) -> str:
    return f"{trial.name}: {trial.outcome.reason}"[:300]


def _ask_artifact(folder: Path, feed: Feed, check: Any) -> None:
    from mopt.artifacts.artifact import Artifact
    from mopt.runtimes._base import make_runtime

    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    runtime = make_runtime(manifest.runtime, manifest.runtime_fields)
    _ask(f"the artifact ({manifest.chosen})", *runtime.fallback(artifact.model), manifest.signature, feed, check)


def _ask(what: str, model: Any, runtime: Any, signature: Any, feed: Feed, check: Any) -> None:
    from mopt.runtimes._base import SessionProcess

    with SessionProcess(runtime, model) as session:
        answers = session.run({spec.name: feed[spec.name] for spec in signature.inputs})
    if difference := check([answers[spec.name] for spec in signature.outputs]):
        raise _WrongError(f"{what}: {difference}")


@dataclasses.dataclass(frozen=True)
class _Judge:
    """A search without a clock: every candidate is compiled and judged, and the first exact one is shipped."""

    feed: Feed
    check: Any

    def search(self, task: Any, reference_candidate: Any, candidates: Any, progress: Any) -> Any:
        from mopt.search.quality import check_quality, check_reference, compile_all, record_reference, reference_trial
        from mopt.search.selection import SearchResult

        expected = record_reference(task.quality, task.source, reference_candidate)
        reference = check_reference(task.quality, expected, reference_trial(task.source, reference_candidate))
        trials = compile_all(task.compiling, candidates, time.monotonic() + task.time_budget_s, progress)
        trials = [check_quality(task.quality, expected, trial) if trial.alive else trial for trial in trials]
        exact = [reference, *(trial for trial in trials if trial.alive and trial.record.name.endswith("fp32"))]
        for trial in exact:
            model, runtime = trial.candidate.runtime.fallback(trial.model)
            _ask(trial.record.name, model, runtime, task.quality.signature, self.feed, self.check)
        winner = exact[-1]
        return SearchResult(
            trials=(reference.record, *(trial.record for trial in trials)),
            chosen=winner.record,
            model=winner.model,
            candidate=winner.candidate,
            why="it is exact",
            control=None,
        )


def _start_here(worker: Any, factory: Any, *arguments: Any, **_: Any) -> None:
    """Take the place of ``Worker.__init__``: host the object in this process."""
    worker._hosted = None
    if factory is not None:
        worker._ask(("new", factory, arguments, {}))


def _ask_here(worker: Any, request: Any, *_: Any) -> Any:
    """Take the place of ``Worker._ask``: requests and answers are changed on their way as those of a child process are."""
    from mopt.system.protocol import describe_error, rebuild_error, receive_answer, send_answer

    kind, target, arguments, keywords = pickle.loads(pickle.dumps(request))
    pipe = _Pipe()
    try:
        with _ONE_AT_A_TIME:
            if kind == "new":
                worker._hosted, value = target(*arguments, **keywords), None
            else:
                value = (target if kind == "run" else getattr(worker._hosted, target))(*arguments, **keywords)
    except Exception as error:  # as in the child
        raise rebuild_error(json.loads(json.dumps(describe_error(error)))) from error
    send_answer(pipe, {"value": value})  # type: ignore[arg-type]
    return receive_answer(pipe, 1.0)["value"]  # type: ignore[arg-type]


class _Pipe(collections.deque[bytes]):
    """Both ends of a connection."""

    def send_bytes(self, data: Any) -> None:
        self.append(bytes(data))

    def recv_bytes(self) -> bytes:
        return self.popleft()

    def poll(self, _: float) -> bool:
        return bool(self)


# Running many


def examine_all(
    cases: Sequence[Any], build: Any, *, jobs: int, limit: float, tell: Callable[[int, Ending], None]
) -> list[Ending]:
    """Examine every case, each in one of some forked processes; one that hangs or crashes is replaced."""
    pending = iter(range(len(cases)))
    lock = threading.Lock()
    endings: dict[int, Ending] = {}

    def work() -> None:
        process = connection = None
        while True:
            with lock:
                index = next(pending, None)
            if index is None:
                break
            if process is None:
                process, connection = _fork(cases, build)
            ending = _await(connection, index, cases[index].name, limit)
            if ending.kind in (HUNG, CRASHED):
                _end(process)
                process = None
            with lock:
                endings[index] = ending
                tell(len(endings), ending)
        if process is not None:
            _end(process)

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [endings[index] for index in range(len(cases))]


def _fork(cases: Sequence[Any], build: Any) -> tuple[Any, Connection]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, cases, build), daemon=False)
    process.start()
    theirs.close()
    return process, ours


def _serve(connection: Connection, cases: Sequence[Any], build: Any) -> None:
    os.setsid()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    warnings.simplefilter("ignore")
    with contextlib.suppress(EOFError):
        while True:
            connection.send(dataclasses.asdict(examine(cases[connection.recv()], build)))
    os._exit(0)


def _await(connection: Connection, index: int, name: str, limit: float) -> Ending:
    start = time.monotonic()
    try:
        connection.send(index)
        if connection.poll(limit):
            return Ending(**connection.recv())
    except (EOFError, OSError):
        return Ending(name, CRASHED, "the process that built it died", seconds=time.monotonic() - start)
    return Ending(name, HUNG, f"no end within {limit:.0f} s", seconds=time.monotonic() - start)


def _end(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join(10)


def tally(endings: Sequence[Ending]) -> dict[str, int]:
    """Count by kind, the best first."""
    counts = collections.Counter(ending.kind for ending in endings)
    return {kind: counts[kind] for kind in (RIGHT, REFUSED, WRONG, TRACEBACK, HUNG, CRASHED, NOT_EXPECTED)}


def reasons(lines: Sequence[str]) -> list[tuple[str, int]]:
    """Count reasons that differ only in names and numbers, the most frequent first."""
    shortened = (re.sub(r"\b[0-9a-f]{32,}\b|'[^']*'|\[[^\]]*\]|\d+", "_", line)[:140] for line in lines)
    return collections.Counter(shortened).most_common()


def report(endings: Sequence[Ending], *, longest: int = 40) -> Iterator[str]:
    """Yield the lines of a summary."""
    yield ", ".join(f"{count} {kind}" for kind, count in tally(endings).items())
    for ending in endings:
        if ending.kind in (WRONG, TRACEBACK, HUNG, CRASHED):
            yield f"{ending.kind}: {ending.name}: {ending.why}"
    for title, lines in (
        ("refused because", [ending.why for ending in endings if ending.kind == REFUSED]),
        ("candidates failed because", [line for ending in endings for line in ending.failed]),
    ):
        for reason, count in reasons(lines)[:longest]:
            yield f"{title} ({count}): {reason}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when a model ended in another way than right or refused."""
    parser = argparse.ArgumentParser(
        description="Build ONNX's node models, and compare what is shipped with what ONNX expects."
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th of the models")
    parser.add_argument("--first", type=int, default=0, help="position of the first that is taken")
    parser.add_argument("--operator", action="append", default=[], help="a module of onnx.backend.test.case.node; default: all")
    parser.add_argument("--only", action="append", default=[], help="name of a test")
    parser.add_argument("--candidate", action="append", default=[], help="candidates to build; default: those of ONNX Runtime")
    parser.add_argument("--children", action="store_true", help="build as users do, with child processes and clocks")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="models at a time")
    parser.add_argument("--limit", type=float, default=_LIMIT_SECONDS, help="seconds after which a model counts as hung")
    parser.add_argument("--json", type=Path, help="file to write every ending to")
    options = parser.parse_args(arguments)
    os.environ.setdefault("MOPT_QUIET_WAIT", "0")
    start = time.monotonic()
    cases = collect(options.operator)
    cases = [case for case in cases if not options.only or case.name in options.only][options.first :: options.every]
    how = build_as_users_do if options.children else build_here
    build = functools.partial(how, tuple(options.candidate or CANDIDATES))

    def tell(done: int, ending: Ending) -> None:
        if ending.kind not in (RIGHT, NOT_EXPECTED, REFUSED) or done % 25 == 0 or done == len(cases):
            seconds = time.monotonic() - start
            print(f"{done}/{len(cases)} after {seconds:.0f} s: {ending.name}: {ending.kind} {ending.why}"[:240], flush=True)

    endings = examine_all(cases, build, jobs=options.jobs, limit=options.limit, tell=tell)
    print("\n".join(report(endings)))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(ending) for ending in endings], indent=1))
    bad = sum(tally(endings)[kind] for kind in (WRONG, TRACEBACK, HUNG, CRASHED))
    return 1 if bad or not endings else 0


if __name__ == "__main__":
    sys.exit(main())
