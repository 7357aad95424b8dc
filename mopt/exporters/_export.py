"""Any source to ONNX, proven on real samples: the first step of every build."""

from __future__ import annotations

__all__ = ["ExportedModel", "ValidatedModel", "export", "find_exporter", "source_defaults", "validate_export"]

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.datasets.spec import SourceDefaults
from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.exporters._base import Exporter, apply_in_child, open_onnxruntime, reference_in_child
from mopt.exporters._batch_axes import ROWS_IN_ONE, find_batch_axes
from mopt.exporters._parity import compare
from mopt.model.files import Model
from mopt.model.onnx_io import LIBRARIES
from mopt.model.signature import Feed, Signature
from mopt.passes.convert_dimensions import ConvertDimensions
from mopt.records.trial import ExportRecord
from mopt.storage._fetch import called
from mopt.system import plugins
from mopt.system.deadlines import TimeLimit
from mopt.system.digests import digest, versions
from mopt.system.files import make_empty
from mopt.system.hangs import retry_hung, warn
from mopt.system.process import run
from mopt.system.store import Store, code_digest

SAMPLES = 8
"""How many real samples an export is compared on."""
_MODEL, _RECORD = "model", "export.json"
_LIMITS = {
    Rejection.MEMORY: "allow more with --memory, or take a machine that has more",
    Rejection.HUNG: "see whether it ends in its own framework, and with smaller samples",
}
"""What to do about a source that exceeds one."""
_LANGUAGE = "a language model as a folder, a GGUF file or an id of the Hugging Face hub (organisation/name)"
_HINTS = {
    ".gguf": "a GGUF begins with the letters GGUF: this file is damaged, or of another kind",
    ".zip": "unpack it, and give the folder",
    ".gz": "unpack it, and give what is in it",
    ".h5": "save it as a SavedModel: model.export('folder')",
    ".keras": "save it as a SavedModel: model.export('folder')",
    ".safetensors": "give the folder that has config.json in it, or file.py:function that builds the module",
}


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A source that has become ONNX; nobody has run it yet.

    Attributes:
        model: The ONNX model.
        signature: As the graph declares it, with a guess at the batch axes.
        exporter: What made it.
        source_digest: Of every byte of the source.
        opset: Of the ONNX model.
        detail: What the exporter told.
        brings: What belongs to the source, as JSON data; the tokenizer's path starts from the source.
        seconds: What exporting took.
    """

    model: Model
    signature: Signature
    exporter: Exporter
    source_digest: str
    opset: int
    detail: dict[str, Any]
    brings: dict[str, Any]
    seconds: float

    @property
    def defaults(self) -> SourceDefaults:
        """What belongs to the source, for what the recipe does not say."""
        return source_defaults(self.brings, self.exporter.source)


@dataclasses.dataclass(frozen=True)
class ValidatedModel:
    """An export that real samples have gone through.

    Attributes:
        model: The same graph with its dimensions named.
        signature: With the batch axes that an experiment has found.
        record: For the manifest.
    """

    model: Model
    signature: Signature
    record: ExportRecord


def source_defaults(brings: Mapping[str, Any], source: str) -> SourceDefaults:
    """Return what an export has told of what belongs to its source."""
    return SourceDefaults.model_validate(brings).at(Path(source))


def find_exporter(source: str, *, trust_pickle: bool = False) -> Exporter:
    """Return the exporter for what the user calls the model.

    Raises:
        UserError: When there is no such file, or no exporter takes it.
    """
    kinds = [plugins.load("exporters", name) for name in plugins.names("exporters")]
    kind = next((kind for kind in kinds if kind.matches(source)), None)
    path = Path(source)
    if not path.exists() and (kind is None or ":" not in source):
        raise UserError(f"no such file or folder: {called(source)}", "check the path of the model")
    if kind is None:
        raise UserError(f"{called(source)} is not a model that mopt knows", _hint(path, [kind.accepts for kind in kinds]))
    fields = {field.name for field in dataclasses.fields(kind)}
    exporter: Exporter = kind(source=source, **({"trust_pickle": True} if trust_pickle and "trust_pickle" in fields else {}))
    return exporter


def _hint(path: Path, accepted: Sequence[str]) -> str:
    inside = sorted(path.glob("*.onnx")) if path.is_dir() else []
    if inside:
        return f"give the file in it: {inside[0]}"
    return _HINTS.get(path.suffix.lower()) or f"mopt takes {'; '.join([*accepted, _LANGUAGE])}"


class _MoreFilesError(Exception):
    """The export read files that its key did not know of; it is in the store under the key that does."""


def export(exporter: Exporter, store: Store, memory: int | None = None) -> ExportedModel:
    """Convert the source, or find what it was converted to in the store.

    What a program reads is known only after it ran. So the store keeps, for each known set of files, what else was read
    with it: the key of an export covers them all, and a changed byte in any of them is a miss.

    Args:
        exporter: Of the source.
        store: Where the result is kept.
        memory: Bytes that the framework may take, with what this process grows by meanwhile; None for any.

    Raises:
        UserError: When the source cannot be converted.
    """
    read = _known_reads(exporter, store)
    try:
        folder = store.get("exports", _key(exporter, read), functools.partial(_make_export, exporter, store, read, memory))
    except _MoreFilesError:
        return export(exporter, store, memory)
    except CandidateRejectedError as error:
        if (cautious := exporter.cautious()) is not None:
            return export(cautious, store, memory)
        hint = _LIMITS.get(error.rejection, "mopt also takes an .onnx file that you export yourself")
        raise UserError(f"{exporter.called} cannot be exported: {error.message}", hint) from error
    record = json.loads((folder / _RECORD).read_text())
    return ExportedModel(
        model=Model("onnx", folder / _MODEL, record["digest"]),
        signature=Signature.model_validate(record["signature"]),
        exporter=exporter,
        source_digest=exporter.digest(read),
        opset=record["opset"],
        detail=record["detail"],
        brings=record["brings"],
        seconds=record["seconds"],
    )


def _key(exporter: Exporter, read: Sequence[str]) -> dict[str, Any]:
    return {"exporter": exporter.key(), "source": exporter.digest(read), "code": code_digest()}


def _known_reads(exporter: Exporter, store: Store) -> list[str]:
    """Return the files that earlier runs of the same source are known to have read besides its own."""
    read: list[str] = []
    while (folder := store.find("sources", _key(exporter, read))) is not None:
        more = sorted({*read, *json.loads((folder / "read.json").read_text())})
        if more == read:
            break
        read = more
    return read


def _make_export(exporter: Exporter, store: Store, read: Sequence[str], memory: int | None, folder: Path) -> None:
    (folder / _MODEL).mkdir()
    written = apply_in_child(exporter, folder / _MODEL, memory)
    detail = dict(written.result.detail)
    more = sorted({*read, *detail.pop("read", [])})
    model = Model.at("onnx", folder / _MODEL)
    record = {
        "digest": model.digest,
        "signature": written.signature.model_dump(mode="json"),
        "opset": written.opset,
        "detail": detail,
        "brings": written.brings,
        "seconds": written.seconds,
    }
    (folder / _RECORD).write_text(json.dumps(record))
    if more != list(read):
        store.get("exports", _key(exporter, more), functools.partial(_move, folder))
        store.get("sources", _key(exporter, read), lambda target: _write_reads(target, more))
        raise _MoreFilesError


def _move(source: Path, target: Path) -> None:
    for path in source.iterdir():
        path.rename(target / path.name)


def _write_reads(folder: Path, read: Sequence[str]) -> None:
    (folder / "read.json").write_text(json.dumps(read))


def validate_export(exported: ExportedModel, feeds: Sequence[Feed], store: Store, memory: int | None = None) -> ValidatedModel:
    """Run real samples through the source and its export: compare them, and find the batch axes.

    Args:
        exported: From :func:`export`.
        feeds: Real samples, each with a batch axis of length 1 or all that the model takes at once; the first 8 are used.
        store: Where the result is kept.
        memory: Bytes that source and model, one after the other, may take, with what this process grows by; None for any.

    Raises:
        UserError: When the source does not take the samples, or the export does not give what the source gives.
    """
    if not feeds:
        raise UserError("there is no sample to compare the export with its source on", "give at least one real sample")
    used = list(feeds[:SAMPLES])
    key = {
        "export": _key(exported.exporter, []) | {"source": exported.source_digest},
        "model": exported.model.digest,
        "feeds": [_feed_digest(feed) for feed in used],
        "libraries": versions(("onnxruntime", "onnx-ir")),
    }
    try:
        folder = store.get("bound", key, functools.partial(_make_validated, exported, used, memory))
    except CandidateRejectedError as error:
        hint = _LIMITS.get(error.rejection, "compare the data with the inputs that mopt inspect shows")
        raise UserError(f"{exported.exporter.called} does not run on the samples: {error.message}", hint) from error
    record = json.loads((folder / _RECORD).read_text())
    if record["problem"]:
        return _again(exported, feeds, store, record["problem"], memory)
    if (batching := record["detail"].get("batching", "")).startswith(ROWS_IN_ONE):
        warn(batching)
    return ValidatedModel(
        model=Model("onnx", folder / _MODEL, record["digest"]),
        signature=Signature.model_validate(record["signature"]),
        record=ExportRecord(
            source=exported.exporter.called,
            source_digest=exported.source_digest,
            exporter=exported.exporter.name,
            opset=exported.opset,
            largest_difference=record["largest_difference"],
            samples=len(used),
            detail={**exported.detail, **record["detail"]},
            brings=exported.brings,
        ),
    )


def _again(exported: ExportedModel, feeds: Sequence[Feed], store: Store, problem: str, memory: int | None) -> ValidatedModel:
    """Export with more caution, if the exporter can, and say why."""
    cautious = exported.exporter.cautious()
    if cautious is None:
        raise UserError(
            f"the ONNX export of {exported.exporter.called} is wrong: {problem}",
            "another version of the framework may export it right; mopt also takes an .onnx file that you export yourself",
        )
    bound = validate_export(export(cautious, store, memory), feeds, store, memory)
    detail = {**bound.record.detail, "opset kept because": f"the version converter's model is wrong: {problem}"}
    return dataclasses.replace(bound, record=bound.record.model_copy(update={"detail": detail}))


def _feed_digest(feed: Feed) -> str:
    parts = {}
    for name, value in sorted(feed.items()):
        data = "\0".join(map(str, value.ravel())).encode() if value.dtype.kind in "OUS" else value.tobytes()
        parts[name] = [value.dtype.name, list(value.shape), hashlib.sha256(data).hexdigest()]
    return digest(parts)


def _make_validated(exported: ExportedModel, feeds: Sequence[Feed], memory: int | None, folder: Path) -> None:
    """Fill an entry: the model with its dimensions named, its signature, and what the comparison showed."""
    signature = exported.signature.as_given(feeds)
    _check_batch(signature, feeds, memory)
    whole = [signature.alone(feed) for feed in feeds]
    *expected, repeated = reference_in_child(exported.exporter, [*whole, whole[0]], exported.seconds, memory)
    random = compare(expected[:1], [repeated]).problem

    def examine() -> dict[str, Any]:
        make_empty(folder / _MODEL)
        arguments = (exported.model.file, signature, list(feeds), whole, expected, random, folder / _MODEL)
        limit = TimeLimit.from_size(exported.model.size)
        record: dict[str, Any] = run(_examine, *arguments, limit=limit, memory=memory, modules=LIBRARIES)
        return record

    try:
        record = retry_hung("comparing the export with its source", examine, examine)
    except CandidateRejectedError as error:
        if error.rejection is Rejection.MEMORY:  # another time more may be allowed
            raise
        record = {"problem": f"ONNX Runtime cannot run it: {error.message}"}
    if not record["problem"]:
        record["digest"] = Model.at("onnx", folder / _MODEL).digest
    (folder / _RECORD).write_text(json.dumps(record))


def _check_batch(signature: Signature, feeds: Sequence[Feed], memory: int | None) -> None:
    """Refuse a fixed batch size that no memory holds: a model may declare any."""
    size = signature.batch_size or 1
    needed = size * sum(value.nbytes for feed in feeds for value in feed.values())
    if memory is not None and max(needed, size) > memory:
        text = f"{len(feeds)} batches of the {size} samples that the model takes at once would take {needed / 1e9:.1f} GB"
        raise CandidateRejectedError(Rejection.MEMORY, f"{text}, and {memory / 1e9:.1f} GB are allowed")


def _examine(
    path: Path,
    signature: Signature,
    feeds: Sequence[Feed],
    whole: Sequence[Feed],
    expected: Sequence[Feed],
    random: str,
    folder: Path,
) -> dict[str, Any]:
    """Compare, find the batch axes and name the dimensions. Called in a child process, for the model may crash it.

    Args:
        path: The export.
        signature: Its signature, as guessed.
        feeds: Single samples.
        whole: The same, each repeated to the batch size that the model has fixed.
        expected: What the source gives for ``whole``.
        random: How the source differs from itself, if it does.
        folder: Where the model with named dimensions goes.
    """
    run_model = open_onnxruntime(path)
    answers = list(map(run_model, whole))
    difference = compare(expected, answers)
    if difference.problem and not random:
        return {"problem": difference.problem}
    batched = find_batch_axes(run_model, signature, feeds, random=bool(random))
    axes = tuple(batched.axes.items()) if batched.size is None else ()
    step = ConvertDimensions(batch_axes=axes, ranks=tuple(batched.ranks.items()), free=_contradicted(signature, answers))
    named, detail = _rename(step, path, folder)
    validated = named.model_copy(update={"batch_axes": batched.axes, "batch_size": batched.size})
    detail |= {"batching": batched.reason} if batched.reason else {}
    detail |= {"random": f"the source gives something else each time: {random}"} if random else {}
    return {
        "problem": "",
        "signature": validated.model_dump(mode="json"),
        "largest_difference": 0.0 if random else difference.largest,
        "detail": detail,
    }


def _contradicted(signature: Signature, answers: Sequence[Feed]) -> tuple[tuple[str, int], ...]:
    """Return the axes of outputs that came out with another size than the one that the graph declares."""
    shapes = {(spec, answer[spec.name].shape) for spec in signature.outputs for answer in answers}
    wrong = {
        (spec.name, axis)
        for spec, shape in shapes
        if len(shape) == len(spec.shape)
        for axis, (size, length) in enumerate(zip(spec.shape, shape, strict=True))
        if isinstance(size, int) and size != length
    }
    return tuple(sorted(wrong))


def _rename(step: ConvertDimensions, source: Path, folder: Path) -> tuple[Signature, dict[str, Any]]:
    """Rename the dimensions; large weights are copied byte for byte (onnx refuses a hard link as an attack)."""
    import onnx_ir as ir

    from mopt.model.onnx_io import load, save
    from mopt.model.onnx_signature import signature_of

    model = load(source)
    result = step.rewrite(model)
    weights = source.with_name(f"{source.name}.data")
    if weights.is_file():
        shutil.copyfile(weights, folder / weights.name)
        ir.save(model, folder / source.name)
    else:
        save(model, folder)
    return signature_of(model), dict(result.detail)
