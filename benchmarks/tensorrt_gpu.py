"""What TensorRT's precisions are worth on the GPU of this machine: INT8, FP8 and INT4 beside FP16 and FP32.

    pip install -e '.[tensorrt]'        # or tensorrt-rtx, for cards up to Ada and RTX Blackwell
    python -m benchmarks.tensorrt_gpu --target nvidia-l4

Each engine is built, judged on held-out samples, and timed by events on the GPU without transfers, as trtexec does it: after a
warm-up, with a CUDA graph, at each batch size. Latency with transfers, as a request pays it, stands beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from mopt.datasets.spec import DataSpec
from mopt.datasets.split import batched, prepare
from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.exporters._export import export, find_exporter, validate_export
from mopt.model.samples import batch_feeds
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from mopt.recipe import Engine, Search
from mopt.runtimes._base import SessionProcess
from mopt.search.candidates import SpaceInputs, graph_traits, search_space
from mopt.search.compile import compile_passes
from mopt.search.from_recipe import simplifying_passes
from mopt.search.simplify import simplify
from mopt.search.without_device import check_buildable, engine_pass, runs_here
from mopt.system.nvidia import devices
from mopt.system.store import Store
from tests.models import case

HERE = Path(__file__).parent
MODELS = ("efficientnet_lite0", "ocr_rec", "ocr_det", "minilm_sentiment", "magika")
BATCHES = (1, 8, 32)


def main() -> None:
    """Measure all models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="the target of this machine's GPU")
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "tensorrt")
    arguments = parser.parse_args()
    target = load_target(arguments.target, detect())
    check_buildable(target)
    if target.gpu is None or not runs_here(target.gpu):
        raise SystemExit(f"skipped: no GPU like {arguments.target} is here ({devices() or 'none at all'})")
    rows: list[dict[str, Any]] = []
    for name in arguments.model or MODELS:
        rows += _measure(name, target, arguments.work)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "tensorrt_gpu.json").write_text(json.dumps(rows, indent=1))
    print(_table(rows))


def _measure(name: str, target: Any, work: Path) -> list[dict[str, Any]]:
    chosen, store = case(name, work / name, 200), Store(work / "cache")
    exported = export(find_exporter(str(chosen.model)), store)
    split = prepare(DataSpec(path=str(chosen.held_out)), exported.signature, store, Path())
    feeds = [split.evaluation[index] for index in range(min(8, len(split.evaluation)))]
    bound = validate_export(exported, feeds, store)
    calibration = batched(split.calibration, bound.signature, store)
    steps = simplifying_passes(Search().simplify, calibration)
    prepared = simplify(steps, bound.model, bound.signature, feeds, store)
    engine = engine_pass(target.gpu, Engine(), bound.signature, calibration, max(BATCHES))
    asked = SpaceInputs(graph_traits(prepared.model), target, calibration, 1, engine)
    rows = []
    for candidate in search_space(asked, ("*",), "latency"):
        row: dict[str, Any] = {"model": name, "candidate": candidate.name}
        try:
            compiled = compile_passes(candidate.passes, prepared.model, store)
            row |= {"build_seconds": compiled.records[-1].seconds, "computes": compiled.records[-1].detail["computes"]}
            with SessionProcess(candidate.runtime, compiled.model) as session:
                for batch in bound.signature.batch_sizes(max(BATCHES)):
                    if batch in BATCHES:
                        (feed, *_) = batch_feeds(bound.signature, split.evaluation, batch, count=1)
                        session.run_finite(feed)
                        row[str(batch)] = session.device_times(feed) | {
                            "with_transfers_ms": sorted(session.time([feed], 1.0, 20))
                        }
        except (NotApplicableError, CandidateRejectedError) as error:
            row["failed"] = error.message
        print(json.dumps(row)[:300], flush=True)
        rows.append(row)
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    gpu = devices()[0]
    lines = [
        f"{gpu.name}, compute capability {gpu.capability}, CUDA {gpu.driver}; {datetime.datetime.now(datetime.UTC).date()}\n",
        "| model | engine | build | "
        + " | ".join(f"batch {batch}, p50 / p99 on the GPU" for batch in BATCHES)
        + " | computes in |",
        "|---" * (4 + len(BATCHES)) + "|",
    ]
    for row in rows:
        cells = [
            f"{row[str(batch)]['gpu_p50_ms']:.3f} / {row[str(batch)]['gpu_p99_ms']:.3f} ms" if str(batch) in row else "-"
            for batch in BATCHES
        ]
        said = row.get("failed") or ", ".join(f"{kind} x{count}" for kind, count in row["computes"].items())
        lines.append(
            f"| {row['model']} | {row['candidate']} | {row.get('build_seconds', 0):.1f} s | {' | '.join(cells)} | {said} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
