"""Does every serving system take what was built as it is, and serve what was judged?

    python -m benchmarks.serving_systems                              two small models of random weights
    python -m benchmarks.serving_systems --model ocr_cls ocr_rec      real ones, of tests/models.py
    python -m benchmarks.serving_systems --system triton bentoml --candidate 'openvino-*'
    python -m benchmarks.serving_systems --planted                    artifacts that serve something else: who notices?

For each system and each candidate for this CPU an artifact is written as a build writes it, and ``mopt verify --server`` starts
the real system on it where it is installed (``mopt tools install all``): answers over the network, precision and threads, bad
requests, batches, a short load. One line for each, with what failed and what is not proven.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mopt.artifacts import bundle
from mopt.artifacts.serving._base import ServingSystem
from mopt.errors import CandidateRejectedError, MoptError
from mopt.model.files import Model
from mopt.model.signature import Feed, Signature
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from mopt.progress import Silent
from mopt.recipe import make_recipe
from mopt.records.benchmark import ServerVerification
from mopt.records.manifest import Golden, Manifest
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.search.candidates import SpaceInputs, graph_traits, search_space
from mopt.search.compile import compile_passes
from mopt.search.trial import Candidate
from mopt.system import plugins
from mopt.system.digests import describe_fields, file_digest, versions
from mopt.system.forkserver import forking
from mopt.system.store import Store
from mopt.workflows._sources import open_source, prepare_model
from mopt.workflows.verify_server import verify_server
from tests import models
from tests.manifests import manifest, trial
from tests.passes import graphs

THREADS, MOST, DELAY_US = 2, 8, 1_000
SAMPLES, GOLDEN = 64, 4
SMALL: Mapping[str, Callable[[Path], Model]] = {"cnn": graphs.cnn, "transformer": graphs.transformer}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with what candidates are made from."""

    name: str
    model: Model
    signature: Signature
    inputs: SpaceInputs
    feeds: list[Feed]
    store: Store


@dataclasses.dataclass(frozen=True)
class Row:
    """One candidate under one serving system; precisions are what the runtime reports, such as ``int8+bf16``."""

    model: str
    system: str
    candidate: str
    judged: str
    served: str
    verdict: str
    seconds: float
    detail: str


def main() -> None:
    """Print the table; leave with 1 when a part of a proof failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(SMALL), help="of tests/models.py; default: small ones")
    parser.add_argument("--system", nargs="+", default=list(plugins.names("serving")))
    parser.add_argument("--candidate", nargs="+", default=["*"], help="patterns")
    parser.add_argument("--planted", action="store_true", help="change the files behind the manifest's back")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch, forking():
        for name in arguments.model:
            subject = _subject(name, Path(scratch) / name)
            for system in arguments.system:
                for row in _rows(plugins.load("serving", system)(), subject, arguments.candidate, arguments.planted):
                    rows.append(row)
                    if not arguments.json:
                        print(_line(row), flush=True)
    if arguments.json:
        machine = detect()
        print(json.dumps({"cpu": machine.cpu, "isa": machine.isa, "rows": list(map(dataclasses.asdict, rows))}, indent=1))
    failed = [row for row in rows if row.verdict == "FAILED"]
    sys.exit(len(failed) != (len(rows) if arguments.planted else 0))


def _line(row: Row) -> str:
    cells = row.model, row.system, row.candidate, row.judged, row.served, row.verdict, f"{row.seconds:.0f} s", row.detail
    return "| " + " | ".join(cells) + " |"


def _subject(name: str, scratch: Path) -> Subject:
    if name in SMALL:
        scratch.mkdir(parents=True)
        source, data = str(SMALL[name](scratch / "case").file), str(scratch / "case" / "samples.npz")
        np.savez(data, **_random_inputs(Path(source)))
    else:
        chosen = models.case(name, scratch / "case", SAMPLES)
        source, data = str(models.onnx_file(chosen)), chosen.data
    store, recipe = Store(scratch / "cache"), make_recipe({"model": source, "data": data})
    opened = open_source(recipe, store, Silent())
    prepared = prepare_model(opened, recipe, store, Silent())
    traits, target = graph_traits(prepared.simplified.model), load_target("cpu", detect())
    inputs = SpaceInputs(traits, target, prepared.calibration, THREADS, signature=prepared.signature)
    feeds = [opened.split.evaluation[index] for index in range(min(GOLDEN, len(opened.split.evaluation)))]
    return Subject(name, prepared.simplified.model, prepared.signature, inputs, feeds, store)


def _random_inputs(source: Path) -> dict[str, Any]:
    import onnx

    rng, arrays = np.random.default_rng(0), {}
    for value in onnx.load(source).graph.input:
        sizes = value.type.tensor_type.shape.dim
        shape = [size.dim_value or SAMPLES if index == 0 else size.dim_value or 16 for index, size in enumerate(sizes)]
        arrays[value.name] = rng.standard_normal(shape, np.float32)
    return arrays


def _rows(system: ServingSystem, subject: Subject, patterns: list[str], planted: bool) -> Iterator[Row]:
    for candidate in search_space(subject.inputs, patterns, "latency", serving=[system]):
        start = time.monotonic()
        try:
            row = _row(system, candidate, subject, planted)
        except MoptError as error:
            row = Row(subject.name, system.name, candidate.name, "", "", "cannot be built", 0.0, error.message[:100])
        if row is not None:
            yield dataclasses.replace(row, seconds=time.monotonic() - start)


def _row(system: ServingSystem, candidate: Candidate, subject: Subject, planted: bool) -> Row | None:
    if candidate.refused is not None:
        reason = candidate.refused.reason
        return None if planted else Row(subject.name, system.name, candidate.name, "-", "-", "refused", 0.0, reason)
    model = compile_passes(candidate.passes, subject.model, subject.store).model
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "a.mopt"
        record = _write(folder, system, candidate.runtime, model, subject)
        if planted and not _plant(folder, system.name):
            return None
        verification = verify_server(folder, system.name)
    return _told(verification, subject.name, candidate.name, record.winner.effective_precision)


def _told(verification: ServerVerification, model: str, candidate: str, judged: str) -> Row:
    served = next((proof for proof in verification.proofs if proof.part == "precision, as the runtime reports"), None)
    told = served.detail.partition(",")[0] if served else "-"
    failed = [f"{proof.part}: {proof.detail}" for proof in verification.proofs if proof.state == "failed"]
    unproven = [proof.part for proof in verification.proofs if proof.state == "not proven"]
    verdict = "FAILED" if failed else "proven" if verification.started else "files only"
    detail = "; ".join(failed) if failed else f"not proven: {', '.join(dict.fromkeys(unproven))}" if unproven else ""
    return Row(model, verification.system, candidate, judged, told, verdict, 0.0, detail)


def _write(folder: Path, system: ServingSystem, runtime: Runtime, model: Model, subject: Subject) -> Manifest:
    """Write the artifact of one candidate, as a build does."""
    signature = subject.signature
    count = signature.batch_size or 1
    with SessionProcess(runtime, model) as session:
        answers = [signature.unstack(session.run_finite(signature.stack([feed] * count)), count)[0] for feed in subject.feeds]
        precision = str(session.evidence().get("precision", ""))
    winner = trial("winner", 1.5, None, None, runtime=runtime.name, runtime_fields=describe_fields(runtime)).model_copy(
        update={"effective_precision": precision, "model_digest": model.digest}
    )
    batching = manifest().batching.model_copy(
        update={"max_batch": MOST, "queue_delay_us": DELAY_US, "instances": 1, "threads": THREADS, "rate": None}
    )
    tops = {name: float(np.abs(value).max(initial=0)) for name, value in answers[0].items() if value.dtype.kind == "f"}
    share = 1e-3 if precision in ("", "fp32") else 5e-2
    golden = Golden(count=len(answers), tolerance={name: max(share * top, 1e-5) for name, top in tops.items()})
    record = manifest(
        name=f"{subject.name}-model", format=model.format, runtime=runtime.name, runtime_fields=describe_fields(runtime),
        signature=signature, machine=detect(), batching=batching, chosen="winner", trials=(winner,),
        versions={name: version for name, version in versions(tuple(type(runtime).libraries)).items() if version},
        recipe={"serve": [system.name]}, golden=golden,
    )  # fmt: skip
    return bundle.write_artifact(
        folder, model=model, manifest=record, golden_inputs=subject.feeds, golden_outputs=answers,
        serving=[system.name],
    )  # fmt: skip


# --- planted differences ---------------------------------------------------------------------------------------------------


def _plant(folder: Path, system: str) -> bool:
    """Let the files say another precision or other threads than was judged, and make the manifest fit; False if they cannot."""
    changed = [path for path in sorted((folder / "serving").rglob("*")) if path.is_file() and _change(path, system)]
    record = json.loads((folder / "manifest.json").read_text())
    for path in changed:
        record["files"][path.relative_to(folder).as_posix()] = file_digest(path)
    (folder / "manifest.json").write_text(json.dumps(record))
    return bool(changed)


def _change(path: Path, system: str) -> bool:
    """Change one file; whether there was anything to change."""
    if path.name == "served_model.json":
        settings = json.loads(path.read_text())
        fields = settings["runtime_fields"]
        fields |= {"precision": "bf16" if fields["precision"] == "f32" else "f32"} if "precision" in fields else {"threads": 1}
        text = json.dumps(settings)
    elif path.name == "config.pbtxt":
        text = path.read_text()
        text = re.sub(r'(key: "(?:intra_op_thread_count|INFERENCE_NUM_THREADS)" value \{ string_value: )"\d+"', r'\1"1"', text)
    else:
        return False
    if text == path.read_text():
        return False
    path.unlink()  # it may be another name of a file of the model
    path.write_text(text)
    return True


if __name__ == "__main__":
    try:
        main()
    except CandidateRejectedError as error:
        sys.exit(error.message)
