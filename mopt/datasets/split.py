"""Samples to calibrate with and other samples to evaluate with, from one source."""

from __future__ import annotations

__all__ = ["Split", "batched", "find_reader", "input_names", "prepare"]

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.datasets.classes import number_labels
from mopt.datasets.completion import complete
from mopt.datasets.lengths import differing_axes
from mopt.datasets.mapping import Binding, ShapeError
from mopt.datasets.readers._base import LABEL_NAMES, Reader
from mopt.datasets.spec import RANDOM, DataSpec, SourceDefaults
from mopt.errors import UserError
from mopt.model.samples import Sample, Samples, chunks, write_samples
from mopt.model.signature import BATCH, Feed, Signature, TensorSpec
from mopt.storage._fetch import called
from mopt.system import plugins
from mopt.system.digests import digest, file_digest, folder_digest
from mopt.system.store import Store, code_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EVALUATION_LIMIT = 2000
"""Samples that are evaluated when nobody says how many."""
_LOOKED_AT = 64
"""Samples whose lengths are looked at when one does not fit the model."""
RANDOM_EVALUATION = 128
_COPIES = 3
"""Of a made-up sample in memory: as it is drawn, in its own type, and on its way to the disk."""
_DRAWN_BYTES = 8
"""Of a made-up number, before it gets its own type."""
_COMPLETED = "completed.json"
RANDOM_DIMENSION = 32
"""Length of a symbolic dimension in made-up data."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Two disjoint sets of samples.

    Attributes:
        digest: Of the content of both, labels included.
        spec: What the user said about them, completed with what the model brings.
        description: JSON data for the manifest: source, counts, classes, what was done with small or repeated data, and how the
            pictures that an ``input`` takes were made, as ``image``.
    """

    calibration: Samples
    evaluation: Samples
    digest: str
    spec: DataSpec
    description: dict[str, Any]


def prepare(
    spec: DataSpec,
    signature: Signature,
    store: Store,
    base: Path,
    defaults: SourceDefaults | None = None,
    bounds: Mapping[str, tuple[int, int]] | None = None,
) -> Split:
    """Read, preprocess, check and split the data that the recipe names; a second call only hashes the source.

    Samples are shuffled with the seed, in proportion to their classes where the labels are classes. Samples of the same
    content, or of the same group, never lie on both sides.

    Args:
        spec: What the user said about the data.
        signature: What the model takes.
        store: Where the samples are written.
        base: Folder that relative paths start from.
        defaults: What the model brings for what the user did not say.
        bounds: Smallest and largest integer of an input, for made-up data.

    Raises:
        UserError: When the data is missing, damaged, empty or does not fit the model; a ShapeError where other lengths of the
            model's axes would mend that.
    """
    defaults = defaults or SourceDefaults()
    key = {
        "spec": spec.model_dump(mode="json", exclude={"path"}),
        "defaults": defaults.model_dump(mode="json", exclude={"text": {"tokenizer"}, "metric": True, "left_out": True}),
        "inputs": [tensor.model_dump(mode="json") for tensor in signature.inputs],
        "batch_axes": signature.batch_axes,
        "tokenizer": _tokenizer_digest(spec, defaults, base),
        "code": code_digest(),
    }
    if spec.is_random and (spec.group is not None or spec.slices):
        raise UserError("made-up data has no groups and no slices", "leave them out, or give real samples")
    if spec.is_random:
        random = {**key, "random": _versions(("numpy",)), "bounds": bounds or {}}
        folder = store.get("data", random, lambda target: _write_random(target, spec, signature, bounds or {}))
        return _split(folder, spec, "random", defaults)
    path = base / spec.path
    name, reader_class = find_reader(path)
    with store.scratch() as scratch:
        reader: Reader = reader_class(path, spec, signature.inputs, scratch)
        key |= {"reader": name, "source": _source_digest(reader), "libraries": _versions(reader.libraries)}
        key |= {"plugin": code} if (code := plugins.code_of(reader_class)) else {}
        if spec.image is not None or defaults.image is not None:
            key["image"] = _versions(("pillow",))
        folder = store.get("data", key, lambda target: _write(target, reader, spec, signature, base, defaults))
    return _split(folder, spec, name, defaults)


def input_names(spec: DataSpec, signature: Signature, store: Store, base: Path) -> set[str]:
    """Return the names of model inputs that the data could have values for: its columns, and what the recipe maps to them.

    Raises:
        UserError: When the data is missing or damaged.
    """
    if spec.is_random:
        return set()
    _, reader_class = find_reader(base / spec.path)
    with store.scratch() as scratch:
        return {*reader_class(base / spec.path, spec, signature.inputs, scratch).columns, *spec.columns}


def batched(samples: Samples, signature: Signature, store: Store) -> Samples:
    """Return the samples as a model of a fixed batch size takes them: several in each feed, the last ones repeated.

    A model that takes one sample, or any number, gets them as they are.
    """
    size = signature.batch_size or 1
    if size == 1:
        return samples
    key = {"samples": samples.digest, "axes": signature.batch_axes, "size": size, "code": code_digest()}

    def feeds() -> Iterator[Sample]:
        start = 0
        for chunk in chunks(signature, samples, size):
            yield Sample(signature.stack(chunk + [chunk[-1]] * (size - len(chunk))), name=f"from sample {start}")
            start += len(chunk)

    def make(folder: Path) -> None:
        write_samples(folder, feeds(), synthetic=samples.synthetic)

    return Samples.at(store.get("batched", key, make))


def _split(folder: Path, spec: DataSpec, reader: str, defaults: SourceDefaults) -> Split:
    calibration, evaluation = Samples.at(folder / "calibration"), Samples.at(folder / "evaluation")
    content = [calibration.digest, calibration.labels, evaluation.digest, evaluation.labels]
    description = {
        "source": called(spec.path),
        "reader": reader,
        **json.loads((folder / "description.json").read_text()),
        "digest": digest(content),
    }
    completed = _completed(json.loads((folder / _COMPLETED).read_text()), spec, defaults)
    return Split(calibration, evaluation, description["digest"], completed, description)


def _completed(stored: dict[str, Any], spec: DataSpec, defaults: SourceDefaults) -> DataSpec:
    """Return the spec as it was completed; the same tokenizer may lie elsewhere than when the samples were written."""
    taken = DataSpec.model_validate({**stored, "path": spec.path})
    text = taken.text
    if text is not None and not (spec.text and spec.text.tokenizer) and defaults.text is not None:
        text = text.model_copy(update={"tokenizer": defaults.text.tokenizer})
    return spec.model_copy(update={"text": text, "image": taken.image, "columns": taken.columns, "classes": taken.classes})


def find_reader(path: Path) -> tuple[str, type[Reader]]:
    """Return the name and the class of the reader for a path; reads no data.

    Raises:
        UserError: When there is none, or nothing to read.
    """
    accepted = []
    for name in plugins.names("readers"):
        reader: type[Reader] = plugins.load("readers", name)
        if reader.matches(path):
            return name, reader
        accepted.append(reader.accepts)
    if not path.exists():
        raise UserError(
            f"no such data: {called(path)}", "give an existing file or folder, file.py:function, or the word random"
        )
    if path.is_dir() and not any(path.iterdir()):
        raise UserError(f"the data is empty: {called(path)}", "give a folder with samples in it")
    raise UserError(f"do not know how to read {called(path)}", f"mopt reads {'; '.join(accepted)}")


def _source_digest(reader: Reader) -> str:
    """Digest of every byte that the samples come from; a program is run, because what it reads cannot be known."""
    from mopt.datasets.readers.function import FunctionReader

    if isinstance(reader, FunctionReader):
        return digest([reader.samples.digest, reader.labels])
    return folder_digest(reader.path) if reader.path.is_dir() else file_digest(reader.path)


def _tokenizer_digest(spec: DataSpec, defaults: SourceDefaults, base: Path) -> list[Any]:
    asked = spec.text is not None and bool(spec.text.tokenizer)
    text = spec.text if asked else defaults.text
    if text is None:
        return []
    path = base / text.tokenizer
    if not path.is_file() and not asked:
        return []  # the model may have moved away, and the data may be tokenized already
    if not path.is_file():
        raise UserError(f"no such tokenizer: {path}", "give the path of a tokenizer.json in [data.text]")
    return [file_digest(path), _versions(("tokenizers",))]


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    installed = {}
    for library in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[library] = metadata.version(library)
    return installed


def _write(folder: Path, reader: Reader, spec: DataSpec, signature: Signature, base: Path, defaults: SourceDefaults) -> None:
    total = len(reader)
    if total < 2:
        what = "is empty" if total == 0 else "has one sample"
        raise UserError(f"the data {what}: {reader.path}", "give at least two samples, better some hundred")
    completion = complete(reader, signature, spec, defaults)
    limited_by = Binding.of(reader, signature, completion.spec, base)
    labels, numbering = number_labels(reader.labels, reader.classes, completion.spec.classes, asked=bool(spec.classes))
    groups = _groups(reader, spec)
    parts = {column: _parts(reader, spec, column, labels) for column in spec.slices}
    counts, note = _counts(spec, total)
    order = _order(labels, total, spec.seed) if groups is None else _order_of_groups(groups, spec.seed)
    walk = _Walk(limited_by, labels, groups, order, parts)
    try:
        calibration = _write_side(folder / "calibration", walk.take(counts[0]))
        walk.closed = frozenset(walk.seen)
        evaluation = _write_side(folder / "evaluation", walk.take(counts[1]))
    except ShapeError as error:
        looked_at = [*order[:_LOOKED_AT].tolist(), walk.last]
        error.axes = differing_axes([limited_by.shapes(index) for index in looked_at], signature)
        raise
    if not evaluation.count and groups is not None:
        raise UserError(
            f"no group of {reader.path} is left to evaluate with", "give more groups, or fewer samples to calibrate with"
        )
    if not evaluation.count:
        raise UserError(f"all samples of {reader.path} have the same content", "give samples that differ")
    description: dict[str, Any] = {
        "samples": total,
        "calibration": calibration.count,
        "evaluation": evaluation.count,
        "labelled": labels is not None,
        "groups": None if groups is None else [len(set(side.groups or ())) for side in (calibration, evaluation)],
        "classes": list(reader.classes if labels == reader.labels else completion.spec.classes),
        "assumed": [*completion.lines, *limited_by.assumed, *filter(None, [numbering])],
        "left_out_as_duplicates": walk.left_out,
        "left_out_with_their_group": walk.left_behind,
        "note": note,
        "synthetic": False,
    }
    if limited_by.image is not None and completion.spec.image is not None:
        description["image"] = {"input": limited_by.image[1], **completion.spec.image.recipe()}
    _describe(folder, description, completion.spec)


def _describe(folder: Path, description: dict[str, Any], spec: DataSpec) -> None:
    (folder / "description.json").write_text(json.dumps(description))
    (folder / _COMPLETED).write_text(spec.model_dump_json(include={"text", "image", "columns", "classes"}))


def _write_side(folder: Path, samples: Iterator[Sample]) -> Samples:
    folder.mkdir()
    return write_samples(folder, samples)


def _counts(spec: DataSpec, total: int) -> tuple[tuple[int, int], str]:
    """Return how many samples each side gets, and what there is to say about it."""
    most_evaluation = spec.evaluation if spec.evaluation is not None else EVALUATION_LIMIT
    needed = spec.evaluation if spec.evaluation is not None else spec.calibration
    if total >= spec.calibration + needed:
        return (spec.calibration, min(most_evaluation, total - spec.calibration)), ""
    calibration = min(spec.calibration, max(total // 2, total - needed))
    evaluation = min(most_evaluation, total - calibration)
    return (calibration, evaluation), (
        f"only {total} samples: {calibration} to calibrate with and {evaluation} to evaluate with, "
        f"instead of {spec.calibration} and {needed if spec.evaluation is not None else f'at least {needed}'}"
    )


def _order(labels: list[Any] | None, total: int, seed: int) -> npt.NDArray[np.int64]:
    """Return all positions, shuffled; every beginning of it has the classes in proportion when the labels are classes.

    Each sample of a class of ``n`` gets a place ``(rank + u) / n`` with one random ``u`` for the class.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    order = random.permutation(total)
    if labels is None or not _are_classes(labels):
        return order
    counts, seen = collections.Counter(labels), collections.Counter[Any]()
    offset = dict(zip(sorted(counts, key=str), random.random(len(counts)), strict=True))
    place = np.empty(total)
    for rank, index in enumerate(order):
        label = labels[index]
        place[rank] = (seen[label] + offset[label]) / counts[label]
        seen[label] += 1
    return order[np.argsort(place, kind="stable")]


def _groups(reader: Reader, spec: DataSpec) -> list[str] | None:
    """Return the group of each sample.

    Raises:
        UserError: When there is no such column.
    """
    if spec.group is None:
        return None
    if spec.group not in reader.columns:
        raise UserError(f"{reader.path.name} has no group {spec.group}", plugins.nearest(spec.group, reader.columns))
    return [str(reader.read(index, (spec.group,))[spec.group]) for index in range(len(reader))]


def _parts(reader: Reader, spec: DataSpec, column: str, labels: list[Any] | None) -> list[str]:
    """Return what part of the data each sample belongs to; the labels themselves may be what parts it.

    Raises:
        UserError: When there is no such column.
    """
    if labels is not None and column not in reader.columns and column in (spec.label, *LABEL_NAMES, "class"):
        return [str(label) for label in labels]
    if column not in reader.columns:
        raise UserError(f"{reader.path.name} has no column {column} to slice by", plugins.nearest(column, reader.columns))
    return [str(reader.read(index, (column,))[column]) for index in range(len(reader))]


def _order_of_groups(groups: list[str], seed: int) -> npt.NDArray[np.int64]:
    """Return all positions, group after group, the groups and what is in them shuffled."""
    import numpy as np

    random = np.random.default_rng(seed)
    order = random.permutation(len(groups))
    place = dict(zip(sorted(set(groups)), random.permutation(len(set(groups))), strict=True))
    return order[np.argsort([place[groups[index]] for index in order], kind="stable")]


def _are_classes(labels: Sequence[Any]) -> bool:
    return all(isinstance(label, int | str) for label in labels) and len(set(labels)) <= len(labels) / 2


@dataclasses.dataclass
class _Walk:
    """Goes through the samples in order, once, and leaves out of the second side what the first side has."""

    limited_by: Binding
    labels: list[Any] | None
    groups: list[str] | None
    order: npt.NDArray[np.int64]
    parts: dict[str, list[str]]
    closed: frozenset[bytes | str] = frozenset()
    left_out: int = 0
    left_behind: int = 0
    last: int = 0
    """The sample that was read last."""

    def __post_init__(self) -> None:
        self.seen: set[bytes | str] = set()
        self._positions = iter(self.order.tolist())

    def take(self, count: int) -> Iterator[Sample]:
        """Yield ``count`` samples, or as many as there are."""
        taken = 0
        while taken < count and (index := next(self._positions, None)) is not None:
            group = None if self.groups is None else self.groups[index]
            if group in self.closed:
                self.left_behind += 1
                continue
            self.last = index
            feed = self.limited_by.feed(index)
            content = _content(feed)
            if content in self.closed:
                self.left_out += 1
                continue
            self.seen.add(content)
            if group is not None:
                self.seen.add(group)
            taken += 1
            label = None if self.labels is None else self.labels[index]
            parts = {column: values[index] for column, values in self.parts.items()}
            yield Sample(feed, label, self.limited_by.reader.name(index), group, parts or None)


def _content(feed: Feed) -> bytes:
    parts = hashlib.sha256()
    for name in sorted(feed):
        value = feed[name]
        parts.update(f"{name}{value.dtype}{value.shape}".encode())
        parts.update(value.tobytes())
    return parts.digest()


def _write_random(folder: Path, spec: DataSpec, signature: Signature, bounds: Mapping[str, tuple[int, int]]) -> None:
    import numpy as np

    random = np.random.default_rng(spec.seed)
    sides = {"calibration": spec.calibration, "evaluation": spec.evaluation or RANDOM_EVALUATION}
    shapes = [_random_shape(tensor, signature.batch_axes.get(tensor.name)) for tensor in signature.inputs]
    _check_room(folder, sum(_DRAWN_BYTES * math.prod(shape) for shape in shapes), sum(sides.values()))
    for side, count in sides.items():
        (folder / side).mkdir()
        feeds = (Sample(_random_feed(signature, random, bounds), name=f"{RANDOM}[{index}]") for index in range(count))
        write_samples(folder / side, feeds, synthetic=True)
    free = sorted({str(size) for tensor in signature.inputs for size in _free(tensor, signature)})
    description: dict[str, Any] = {
        "samples": sum(sides.values()),
        **sides,
        "labelled": False,
        "groups": None,
        "classes": [],
        "assumed": [],
        "left_out_as_duplicates": 0,
        "left_out_with_their_group": 0,
        "note": f"made up; length {RANDOM_DIMENSION} for {', '.join(free)}" if free else "made up",
        "synthetic": True,
    }
    _describe(folder, description, spec)


def _check_room(folder: Path, sample_bytes: int, count: int) -> None:
    """Refuse made-up samples that are too large for the memory or the disk: a model may declare any size."""
    import psutil

    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(folder).free
    if sample_bytes * _COPIES > memory or sample_bytes * count > disk:
        raise UserError(
            f"{count} made-up samples would take {sample_bytes / 1e9:.1f} GB each",
            "give real samples of the size that the model will be used with, or fewer with --calibration and --evaluation",
        )


def _free(tensor: TensorSpec, signature: Signature) -> list[str]:
    axis = signature.batch_axes.get(tensor.name)
    return [size for index, size in enumerate(tensor.shape) if isinstance(size, str) and index != axis and size != BATCH]


def _random_feed(signature: Signature, random: np.random.Generator, bounds: Mapping[str, tuple[int, int]]) -> Feed:
    return {
        tensor.name: _random_array(tensor, signature.batch_axes.get(tensor.name), random, bounds.get(tensor.name))
        for tensor in signature.inputs
    }


def _random_shape(tensor: TensorSpec, axis: int | None) -> tuple[int, ...]:
    def length(index: int, size: int | str) -> int:
        if index == axis or size == BATCH:
            return 1
        return RANDOM_DIMENSION if isinstance(size, str) else size

    return tuple(length(index, size) for index, size in enumerate(tensor.shape))


def _random_array(
    tensor: TensorSpec, axis: int | None, random: np.random.Generator, bounds: tuple[int, int] | None
) -> npt.NDArray[Any]:
    import numpy as np

    shape = _random_shape(tensor, axis)
    if tensor.dtype == "str":
        return np.full(shape, "text")
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if bounds is not None:
        return random.integers(bounds[0], bounds[1], shape, endpoint=True).astype(dtype)
    if dtype.name == "uint8":
        return random.integers(0, 256, shape, dtype)
    # 0 and 1 are masks and types
    return np.ones(shape, dtype) if "mask" in tensor.name.lower() else random.integers(0, 2, shape).astype(dtype)
