"""Does a server compute in the precision that was judged?

    python -m benchmarks.served_precision                       two small models of random weights; two minutes
    python -m benchmarks.served_precision --model ocr_cls       a real one
    python -m benchmarks.served_precision --json

For each serving system and each candidate for this CPU: the precision that was asked for, the one that the runtime reported
when it was judged as that system runs it, and the one that it reports when it is configured by the files that were written for
the system. For Triton that is what the sources of its backends do with ``config.pbtxt``, as
``mopt/artifacts/serving/_files/triton_backend.py`` does it in Python; the server itself runs in
tests/artifacts/serving/test_served_precision.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mopt.artifacts.serving._base import ServingSystem
from mopt.artifacts.serving._files.triton_backend import OpenVINOModel
from mopt.errors import MoptError
from mopt.model.files import Model
from mopt.model.signature import Feed, Signature
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from mopt.progress import Silent
from mopt.recipe import make_recipe
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.candidates import SpaceInputs, graph_traits, search_space
from mopt.search.compile import compile_passes
from mopt.search.trial import Candidate
from mopt.system import plugins
from mopt.system.digests import describe_fields
from mopt.system.store import Store
from mopt.workflows._sources import open_source, prepare_model
from tests import models
from tests.manifests import manifest
from tests.passes import graphs

THREADS = 2
SAMPLES = 64
SMALL: Mapping[str, Callable[[Path], Model]] = {"cnn": graphs.cnn, "transformer": graphs.transformer}


@dataclasses.dataclass(frozen=True)
class Row:
    """One candidate under one serving system; precisions are what the runtime reports, such as ``int8+bf16``."""

    model: str
    system: str
    candidate: str
    asked: str
    judged: str
    served: str
    threads: str
    verdict: str


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with what candidates are made from."""

    name: str
    model: Model
    signature: Signature
    inputs: SpaceInputs
    feed: Feed
    store: Store


def main() -> None:
    """Print the table; leave with 1 when anything is served in another precision than it was judged in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(SMALL), help="of tests/models.py; default: small ones")
    parser.add_argument("--candidate", nargs="+", default=["*"], help="patterns")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            row
            for model in arguments.model
            for subject in [_subject(model, Path(scratch) / model)]
            for name in plugins.names("serving")
            for row in _rows(plugins.load("serving", name)(), subject, arguments.candidate, Path(scratch))
        ]
    machine = detect()
    if arguments.json:
        print(json.dumps({"cpu": machine.cpu, "isa": machine.isa, "rows": list(map(dataclasses.asdict, rows))}, indent=1))
    else:
        print(f"{machine.cpu}: {', '.join(machine.isa)}\n")
        _print(rows)
    sys.exit(any(row.verdict == "DIFFERENT" for row in rows))


def _subject(name: str, scratch: Path) -> Subject:
    if name in SMALL:
        scratch.mkdir()
        source, data = str(SMALL[name](scratch / "case").file), str(scratch / "case" / "samples.npz")
        np.savez(data, **_random_inputs(Path(source)))
    else:
        chosen = models.case(name, scratch / "case", 64)
        source, data = str(models.onnx_file(chosen)), chosen.data
    store, recipe = Store(scratch / "cache"), make_recipe({"model": source, "data": data})
    opened = open_source(recipe, store, Silent())
    prepared = prepare_model(opened, recipe, store, Silent())
    traits, target = graph_traits(prepared.simplified.model), load_target("cpu", detect())
    inputs = SpaceInputs(traits, target, prepared.calibration, THREADS)
    feed = prepared.signature.stack([opened.split.evaluation[0]] * (prepared.signature.batch_size or 1))
    return Subject(name, prepared.simplified.model, prepared.signature, inputs, feed, store)


def _random_inputs(source: Path) -> dict[str, Any]:
    import onnx

    rng, arrays = np.random.default_rng(0), {}
    for value in onnx.load(source).graph.input:
        shape = [size.dim_value or SAMPLES if index == 0 else size.dim_value or 16 for index, size in enumerate(_sizes(value))]
        arrays[value.name] = rng.standard_normal(shape, np.float32)
    return arrays


def _sizes(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


def _rows(system: ServingSystem, subject: Subject, patterns: list[str], scratch: Path) -> Iterator[Row]:
    asked = {candidate.name: candidate for candidate in search_space(subject.inputs, patterns, "latency")}
    for candidate in search_space(subject.inputs, patterns, "latency", serving=[system]):
        try:
            yield _row(system, asked[candidate.name], candidate, subject, Path(tempfile.mkdtemp(dir=scratch)))
        except MoptError as error:
            yield Row(subject.name, system.name, candidate.name, "", "", "", "", f"cannot be built: {error.message[:60]}")


def _row(system: ServingSystem, asked: Candidate, judged: Candidate, subject: Subject, folder: Path) -> Row:
    model = compile_passes(judged.passes, subject.model, subject.store).model
    before = _evidence(asked.runtime, model, subject.feed)
    runtime = judged.runtime
    if judged.refused is not None and runtime.unset:  # what the server would have made of it all the same
        runtime = dataclasses.replace(runtime, **runtime.unset)
    during = _evidence(judged.runtime, model, subject.feed) if judged.refused is None else {}
    after = _served(system, runtime, model, subject.signature, folder)
    threads = f"{after.get('threads', '?')} x {after.get('streams', 1)}"
    if judged.refused is not None:
        verdict = str(judged.refused.rejection)
    else:
        verdict = "same" if after.get("precision") == during["precision"] else "DIFFERENT"
    precisions = before["precision"], during.get("precision", "-"), after.get("precision", "?")
    return Row(subject.name, system.name, judged.name, *precisions, threads, verdict)


def _evidence(runtime: Runtime, model: Model, feed: Feed) -> Mapping[str, Any]:
    with SessionProcess(runtime, model) as session:
        session.run(feed)
        return session.evidence()


def _served(system: ServingSystem, runtime: Runtime, model: Model, signature: Signature, folder: Path) -> Mapping[str, Any]:
    """What the runtime reports when it is configured as the system configures it from its own files."""
    record = manifest(
        name="model", format=model.format, runtime=runtime.name, runtime_fields=describe_fields(runtime), signature=signature,
        machine=detect(),
    )  # fmt: skip
    system.write(folder, manifest=record, model_folder=model.folder, golden=[])
    return CONFIGURED[system.name][runtime.name](folder)


def _triton_config(folder: Path) -> tuple[dict[str, Any], Path]:
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    (path,) = folder.glob("*/config.pbtxt")
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    read = json_format.MessageToDict(config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return read, path.parent / "1"


def _triton_openvino(folder: Path) -> Mapping[str, Any]:
    config, version = _triton_config(folder)
    model = OpenVINOModel(version, config)
    executed = {
        str(getattr(value, "value", value))
        for node in model.compiled.get_runtime_model().get_ordered_ops()
        for key, value in node.get_rt_info().items()
        if key == "runtimePrecision" and str(getattr(node.get_rt_info()["layerType"], "value", "")) in _COMPUTE
    }
    said = model.effective()
    return {**said, "precision": f"int8+{said['precision']}"} if executed & {"i8", "u8"} else said


_COMPUTE = {"Convolution", "FullyConnected", "MatMul", "RNNSeq"}


def _triton_onnxruntime(folder: Path) -> Mapping[str, Any]:
    config, version = _triton_config(folder)
    threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
    session = OnnxRuntime(threads=threads).open(version / "model.onnx")
    return session.evidence()


CONFIGURED: dict[str, dict[str, Callable[[Path], Mapping[str, Any]]]] = {
    "triton": {"openvino": _triton_openvino, "onnxruntime": _triton_onnxruntime},
}
"""By serving system and runtime: load what was written as the system does."""


def _print(rows: list[Row]) -> None:
    names = [field.name for field in dataclasses.fields(Row)]
    cells = [names, *([getattr(row, name) for name in names] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
