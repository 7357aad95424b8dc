"""Spoil model files in every way, and see that ``mopt`` takes or refuses each: no crash, no hang, no file elsewhere.

python -m benchmarks.mutations --count 10000 --stage inspect
python -m benchmarks.mutations --count 10000 --stage build

Each mutation follows from the seed and its number, so that ``--only`` repeats one, and a run that was stopped goes on where it
was. A long-lived process calls what is behind ``mopt inspect`` and ``mopt build --dry-run`` (which reads the model, checks the
export and simplifies it); this one watches it. What is not as it should be is kept in ``findings-...`` of the work folder.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

import onnx
import psutil

from benchmarks import mutators, seed_models
from benchmarks.commands import descendants

STAGES = ("inspect", "build")
SECONDS = {"inspect": 10.0, "build": 180.0}
"""In which a stage must have answered, beside other work."""
CHILD_SECONDS = 10.0
"""The limit of a child that never did the like before, 300 and more otherwise: here nothing takes long that ever ends."""
CHILD_MEMORY = 2**30
"""Bytes that the user gives (``--memory``): a mutation that asks for more is refused."""
OWN_MEMORY = 512 * 2**20
"""Bytes by which the process itself may grow for one mutation."""
ALL_MEMORY = 2 * CHILD_MEMORY + 2**29
"""For it and its children, of which the system refuses one that grows faster than mopt looks twice the limit."""
OUTSIDE_BYTES = 64 * 2**10
_TURNS = (
    "bits",
    "fields",
    "external",
    "shapes",
    "fields",
    "bombs",
    "external",
    "truncation",
    "fields",
    "shapes",
    "external",
    "fields",
)
"""Of the kinds: a bit seldom leaves a protobuf that can be read, a field does."""


def main() -> int:
    """Return 1 when any mutation did what none may do."""
    arguments = _arguments()
    ground = _Ground.prepare(arguments.work.resolve(), arguments.stage, fresh=arguments.fresh)
    results = ground.work / f"results-{arguments.stage}-{arguments.seed}.jsonl"
    if arguments.fresh:
        results.unlink(missing_ok=True)
    known = _known(results)
    wanted = arguments.only or range(arguments.start, arguments.start + arguments.count)
    start, last = time.monotonic(), time.monotonic()
    with contextlib.closing(_Watched(ground)) as worker, results.open("a", encoding="utf-8") as stream:
        for index in wanted:
            if index in known and not arguments.only:
                continue
            result = _try_one(ground, worker, arguments.seed, index)
            known[index] = result
            if not arguments.only:
                stream.write(json.dumps(result) + "\n")
                stream.flush()
            if result["outcome"] not in ("taken", "refused") or arguments.only:
                print(f"{index}: {result['seed']}, {result['kind']} {result['how']}: {result['outcome']}", flush=True)
                print(f"    {result['text'][-600:]}", flush=True)
            if time.monotonic() - last > 60:
                last = time.monotonic()
                print(f"... {index + 1} after {last - start:.0f} s", flush=True)
    return _tell([known[index] for index in wanted], time.monotonic() - start)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Spoilt model files through mopt inspect and the first stages of a build.")
    parser.add_argument("--stage", choices=STAGES, default="inspect", help="what they go through; build includes inspect")
    parser.add_argument("--count", type=int, default=10_000, help="how many mutations")
    parser.add_argument("--start", type=int, default=0, help="number of the first one")
    parser.add_argument("--only", type=int, nargs="+", help="repeat these")
    parser.add_argument("--seed", type=int, default=0, help="of all mutations")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run did")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/mutations"), help="folder for everything")
    return parser.parse_args()


def _known(results: Path) -> dict[int, dict[str, Any]]:
    """What an earlier run came to, by number."""
    if not results.is_file():
        return {}
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {row["index"]: row for row in rows}


@dataclasses.dataclass(frozen=True)
class _Ground:
    """Where the mutations live, and what they are made of.

    In ``arena`` is everything that the watched process may touch: it writes to ``cache`` and ``temporary`` there alone.
    """

    work: Path
    stage: str
    seeds: tuple[tuple[str, bytes, onnx.ModelProto, list[tuple[int, int]]], ...]

    @classmethod
    def prepare(cls, work: Path, stage: str, *, fresh: bool) -> _Ground:
        work.mkdir(parents=True, exist_ok=True)
        if fresh:
            shutil.rmtree(work / f"findings-{stage}", ignore_errors=True)
        seeds = []
        for name in seed_models.NAMES:
            content = seed_models.write(name, work / "seeds").read_bytes()
            model = onnx.ModelProto.FromString(content)
            seeds.append((name, content, model, mutators.weight_spans(content, model)))
        return cls(work, stage, tuple(seeds))

    @property
    def arena(self) -> Path:
        return self.work / f"arena-{self.stage}"

    @property
    def case(self) -> Path:
        return self.arena / "case"

    @property
    def outside(self) -> Path:
        return self.arena / "outside.bin"

    def mutate(self, seed: int, index: int) -> tuple[str, str, str]:
        """Fill the arena with a mutation; return the seed's name, its kind, and what was done."""
        _remove(self.arena)
        for name in ("case", "here", "home", "cache", "temporary"):
            (self.arena / name).mkdir(parents=True)
        self.outside.write_bytes(_MARK * (OUTSIDE_BYTES // len(_MARK)))
        name, content, model, spans = self.seeds[index % len(self.seeds)]
        kind = _TURNS[index // len(self.seeds) % len(_TURNS)]
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        others = [data for _, data, _, _ in self.seeds if len(data) < 10**6]
        victim = mutators.Victim(self.case, "model.onnx", content, copy, spans, others, self.outside)
        return name, kind, mutators.mutate(victim, kind, random.Random(f"{seed} {index}"))

    def untouched(self) -> dict[str, str]:
        """What nobody may change, by path: everything but the cache."""
        return {
            str(path.relative_to(self.arena)): _state(path)
            for folder in ("case", "here", "home", "temporary", "outside.bin")
            for path in _below(self.arena / folder)
        }

    def leaked(self) -> list[str]:
        """Files of the cache that have something of the file outside in them."""
        files = [path for path in _below(self.arena / "cache") if path.is_file() and not path.is_symlink()]
        return [str(path) for path in files if path.stat().st_size < 2**26 and _MARK in path.read_bytes()]


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What may move a terminal's cursor, or turn text around."""
_MARK = hashlib.sha256(b"nobody may read this").digest()[:16]


def _below(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            yield from _below(child)


def _state(path: Path) -> str:
    status = path.lstat()
    return f"{status.st_mode} {status.st_size if not path.is_dir() else ''} {status.st_mtime_ns if path.is_file() else ''}"


def _remove(folder: Path) -> None:
    """Remove a folder, and what is write-protected in it."""
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            if not (Path(parent) / name).is_symlink():
                (Path(parent) / name).chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def _try_one(ground: _Ground, worker: _Watched, seed: int, index: int) -> dict[str, Any]:
    name, kind, how = ground.mutate(seed, index)
    before = ground.untouched()
    result: dict[str, Any] = {"index": index, "seed": name, "kind": kind, "how": how, **worker.ask()}
    after = ground.untouched()
    if changed := sorted({path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}):
        result |= {"outcome": "files elsewhere", "text": f"{changed} {result['text']}"}
    elif leaked := ground.leaked():
        result |= {"outcome": "read elsewhere", "text": f"{leaked} {result['text']}"}
    if result["outcome"] not in ("taken", "refused"):
        target = ground.work / f"findings-{ground.stage}" / f"{index}-{name}-{kind}"
        _remove(target)
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(ground.case, target, symlinks=True, ignore=_too_large)
        (target.parent / f"{target.name}.txt").write_text(json.dumps(result, indent=1) + "\n" + result["text"])
    return result


def _too_large(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder) / name).is_file() or (Path(folder) / name).stat().st_size > 2**27]


class _Watched:
    """The process that calls mopt: started anew when it has died."""

    def __init__(self, ground: _Ground) -> None:
        self._ground = ground
        self._process: Any = None
        self._connection: Connection | None = None

    def ask(self) -> dict[str, Any]:
        """Let it take the mutation in the arena; return the outcome, its text, seconds and peaks of memory in bytes."""
        if self._process is None:
            self._start()
        start, peak = time.monotonic(), 0
        assert self._connection is not None
        self._connection.send("go")
        limit, text = SECONDS[self._ground.stage], ""
        outcome = ""
        while not outcome:
            if self._connection.poll(0.02):
                try:
                    answer = self._connection.recv()
                except EOFError:
                    outcome, text = "crash", self._last_words()
                    break
                seconds = time.monotonic() - start
                return answer | {"seconds": round(seconds, 3), "all_memory": max(peak, answer["own_memory"])}
            peak = max(peak, _memory(self._process.pid))
            if peak > ALL_MEMORY + self._resting:
                outcome, text = "memory", f"{peak / 1e9:.1f} GB\n{self._stacks()}"
            elif time.monotonic() - start > limit:
                outcome, text = "hang", f"no answer in {limit:.0f} s\n{self._stacks()}"
        self.close()
        return {"outcome": outcome, "text": text, "own_memory": 0, "seconds": time.monotonic() - start, "all_memory": peak}

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, remote = context.Pipe()
        place = (str(self._ground.arena), str(self._log))
        self._process = context.Process(target=_serve, args=(remote, self._ground.stage, *place))
        self._process.start()
        remote.close()
        assert self._connection.recv() == "ready"
        self._resting = _memory(self._process.pid)

    @property
    def _log(self) -> Path:
        return self._ground.work / f"worker-{self._ground.stage}.err"

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def _stacks(self) -> str:
        """Where its threads are."""
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(0.5)
        return self._last_words()

    def close(self) -> None:
        """End it with all that it started."""
        if self._process is None:
            return
        for pid in reversed(descendants(self._process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.join()
        self._process = None


def _memory(root: int) -> int:
    total = 0
    for pid in descendants(root):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total


# In the watched process


def _serve(connection: Connection, stage: str, arena: str, log: str) -> None:
    import faulthandler

    streams = [Path(log).with_suffix(f".{name}").open("w+", encoding="utf-8") for name in ("out", "err")]
    for descriptor, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), descriptor)
    faulthandler.enable(streams[1])
    faulthandler.register(signal.SIGUSR1, streams[1])
    home = Path(arena)
    for variable, name in {"HOME": "home", "TMPDIR": "temporary", "MOPT_CACHE": "cache"}.items():
        os.environ[variable] = str(home / name)
    os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    os.environ["MOPT_QUIET_WAIT"] = "0"
    from mopt.exporters._base import Exporter
    from mopt.system import deadlines
    from mopt.system.forkserver import forking

    deadlines._UNMEASURED = Exporter.timeout = CHILD_SECONDS
    with forking():
        _through(stage, home.parent / "seeds" / "cnn.onnx", home)  # what is imported or kept for ever is not a mutation's
        connection.send("ready")
        while connection.recv() == "go":
            os.chdir(home / "here")
            for stream in streams:
                stream.truncate(0)
                os.lseek(stream.fileno(), 0, os.SEEK_SET)
            connection.send(_outcome(stage, home, streams))


def _outcome(stage: str, home: Path, streams: Sequence[TextIO]) -> dict[str, Any]:
    """Run a mutation as the command line would, and judge its exit code and what it printed."""
    from mopt.cli._errors import reported

    _reset_peak()
    before = _status("VmRSS")
    writes = _Writes.watch(home)
    code: object = 0
    try:
        with reported():
            _through(stage, home / "case" / "model.onnx", home)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 it is what is looked for
        code = "traceback"
        traceback.print_exc()
    places, growth = writes.stop(), max(0, _status("VmHWM") - before)
    printed, message = (os.pread(stream.fileno(), 2**20, 0).decode(errors="replace") for stream in streams)
    outcome = {0: "taken", 2: "refused"}.get(code, "traceback")  # type: ignore[call-overload]
    lines = message.splitlines()
    if outcome == "taken" and lines:
        outcome = "noise"
    elif outcome == "refused" and not (len(message) < 3000 and [line[:6] for line in lines] == ["mopt: ", "hint: "]):
        outcome = "not one line and a hint"
    elif outcome != "traceback" and (odd := _CONTROL.findall(printed.partition("\n{\n")[0] + message)):  # JSON is for programs
        outcome, message = "control characters", f"{odd[:5]}\n{message}"
    elif growth > OWN_MEMORY:
        outcome, message = "memory of its own", f"{growth / 1e6:.0f} MB\n{message}"
    if places:
        outcome, message = "files elsewhere", f"{places}\n{message}"
    return {"outcome": outcome, "text": message, "own_memory": growth}


def _through(stage: str, path: Path, home: Path) -> None:
    """What ``mopt inspect`` and, for a build, what ``mopt build --dry-run`` does, with what they print."""
    from mopt.cli import inspect as command

    command.command(path, as_json=False)
    command.command(path, as_json=True)
    if stage == "build":
        from mopt.recipe import make_recipe
        from mopt.system.store import Store
        from mopt.workflows.build import explain_plan

        data = {"path": "random", "calibration": 2, "evaluation": 2}
        recipe = make_recipe({"model": str(path), "data": data, "search": {"memory": CHILD_MEMORY}})
        explain_plan(recipe, store=Store(home / "cache"))


class _Writes:
    """Files that this process opens to write, or makes, elsewhere than it may."""

    _current: _Writes | None = None
    _hooked = False

    def __init__(self, home: Path) -> None:
        self._allowed = (str(home / "cache"), str(home / "temporary"), "/proc/self/clear_refs", os.devnull)
        self._thread = threading.get_ident()
        self.places: list[str] = []

    @classmethod
    def watch(cls, home: Path) -> _Writes:
        if not cls._hooked:
            sys.addaudithook(cls._seen)
            cls._hooked = True
        cls._current = cls(home)
        return cls._current

    @classmethod
    def _seen(cls, event: str, arguments: tuple[Any, ...]) -> None:
        current = cls._current
        if current is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                current._note(path)
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
            paths = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
            folder = arguments[-1]  # an open one that the paths start from, or -1
            for path in paths:
                current._note(path if folder in (-1, None) else Path(f"/proc/self/fd/{folder}").readlink() / os.fsdecode(path))

    def _note(self, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.abspath(os.fsdecode(path))
            if not place.startswith(self._allowed) and place not in self.places:
                self.places.append(place)

    def stop(self) -> list[str]:
        type(self)._current = None
        return self.places


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def _tell(results: list[dict[str, Any]], seconds: float) -> int:
    """Print the tally; return 1 when anything was not as it should be."""
    outcomes = collections.Counter(result["outcome"] for result in results)
    print("\n| mutations | " + " | ".join(outcomes) + " | longest | memory of its own | with children |")
    print("|---|" + "---|" * (len(outcomes) + 3))
    for kind in (*mutators.KINDS, "all"):
        rows = [result for result in results if kind in ("all", result["kind"])]
        if not rows:
            continue
        counts = collections.Counter(row["outcome"] for row in rows)
        figures = [str(counts[outcome]) for outcome in outcomes]
        figures.append(f"{max(row['seconds'] for row in rows):.2f} s")
        figures += [f"{max(row[key] for row in rows) / 1e6:.0f} MB" for key in ("own_memory", "all_memory")]
        print(f"| {kind}: {len(rows)} | " + " | ".join(figures) + " |")
    bad = sum(count for outcome, count in outcomes.items() if outcome not in ("taken", "refused"))
    print(f"\n{len(results)} mutations of {len(seed_models.NAMES)} models in {seconds:.0f} s: {bad} not as they should be")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
