"""A few labels go far: write the samples on which finalists and reference disagree, and read their labels back."""

from __future__ import annotations

__all__ = ["LabelRequest", "with_labels", "write_label_request"]

import base64
import collections
import csv
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts import bundle
from mopt.artifacts.artifact import read_manifest
from mopt.datasets.classes import number_labels
from mopt.datasets.spec import DataSpec
from mopt.datasets.split import Split, prepare
from mopt.errors import UserError
from mopt.evaluators.metric_choice import AUTO
from mopt.model.samples import PartialLabel, Samples
from mopt.model.signature import Feed
from mopt.progress import Progress, Silent
from mopt.recipe import make_recipe
from mopt.records.manifest import Manifest
from mopt.records.trial import TrialRecord
from mopt.regression.worst_samples import sample_picture, sample_text, text_reader
from mopt.storage._fetch import fetched
from mopt.system.digests import digest
from mopt.system.forkserver import forking
from mopt.system.store import Store, default_root
from mopt.workflows._fetched import fetched_data
from mopt.workflows._recipes import merge_recipes, recipe_of_artifact
from mopt.workflows._sources import brought_by

_FILE = "labels.csv"
_COLUMNS = ("id", "sample", "picture", "inputs", "changed_by", "label")
_SHOWN_NUMBERS = 16
_WHOLE = 1.0
"""Stratum of labels that came without one."""


@dataclasses.dataclass(frozen=True)
class LabelRequest:
    """What was written.

    Attributes:
        file: The CSV to fill in.
        samples: Rows in it.
        pictures: Pictures beside it.
        evaluation: Samples that were compared, those on which all agree included.
        changed: Changed answers by finalist.
    """

    file: Path
    samples: int
    pictures: int
    evaluation: int
    changed: dict[str, int]


# --- writing ------------------------------------------------------------------------------------------------------------


@forking()
def write_label_request(
    artifact: str | Path,
    *,
    out: Path,
    data: str | None = None,
    force: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> LabelRequest:
    """Write the samples on which the finalists of a build and the reference disagree, the most informative first.

    Samples that more finalists answer differently come first; among equals the order is random but always the same, so that
    the first labels stand for the rest of theirs. No answer is shown, for it would sway whoever labels.

    Args:
        artifact: That a build without labels has written.
        out: Folder to write: ``labels.csv`` and pictures.
        data: Where the data is now; default: where it was for the build.
        force: Replace a folder that is there.
        store: Cache to use instead of the default one.
        progress: Receives the stages.

    Raises:
        UserError: When the build had labels, nothing disagrees, or the data is not that of the build.
    """
    progress, store = progress or Silent(), store or Store(default_root())
    artifact = Path(fetched(artifact, progress, store))
    manifest = read_manifest(artifact)
    finalists = _finalists(manifest)
    what = "a folder of mopt label"
    bundle.check_destination(out, force=force, ours=_is_label_request, what=what)
    progress.stage("reading the data", 1)
    split = _read(artifact, manifest, data, store)
    progress.step(f"{len(split.evaluation):,} samples were compared")
    votes = collections.Counter(index for trial in finalists for index in _changed(trial))
    identities = {index: _identity(split.evaluation[index]) for index in votes}
    order = sorted(votes, key=lambda index: (-votes[index], _shuffled(identities[index])))
    with bundle.published(out, force=force, ours=_is_label_request, what=what) as partial:
        pictures = _write(partial, split.spec, split.evaluation, [(index, identities[index], votes[index]) for index in order])
    changed = {trial.name: len(_changed(trial)) for trial in finalists}
    return LabelRequest(out / _FILE, len(order), pictures, len(split.evaluation), changed)


def _changed(trial: TrialRecord) -> tuple[int, ...]:
    return (trial.quality.changed or ()) if trial.quality is not None else ()


def _finalists(manifest: Manifest) -> list[TrialRecord]:
    """Return the trials that were judged on all samples and may be decided by labels, the chosen one first."""
    quality = manifest.reference.quality
    if quality is None or quality.proof == "labels":
        raise UserError("the build had labels for its samples", "mopt label is for builds without labels")
    judged = [
        trial
        for trial in sorted(manifest.trials, key=lambda trial: trial.name != manifest.chosen)
        if trial.quality is not None and trial.quality.changed is not None and trial.quality.count == quality.count
    ]
    if not judged:
        raise UserError(
            f"labels of single samples do not decide: the build was judged by {quality.metric}",
            "labels tell classes; give data with labels, or name a metric that they fit",
        )
    finalists = [trial for trial in judged if trial.name != manifest.reference.name and _changed(trial)]
    if not finalists:
        raise UserError("no finalist answers differently from the reference", "there is nothing to label")
    return finalists


def _is_label_request(folder: Path) -> bool:
    return (folder / _FILE).is_file()


def _read(artifact: Path, manifest: Manifest, data: str | None, store: Store) -> Split:
    """Read the samples of the build; the metric is not needed, so that no code of it is named."""
    over: dict[str, Any] = {"metric": AUTO, "data": {} if data is None else {"path": data}}
    recipe = make_recipe(merge_recipes(recipe_of_artifact(artifact, over), over))
    split = prepare(fetched_data(recipe.data, store=store), manifest.signature, store, Path(), brought_by(manifest))
    if split.description["digest"] != manifest.data.get("digest"):
        raise UserError(f"{recipe.data.path} is not the data that the artifact was built with", "give the same with --data")
    return split


def _write(out: Path, spec: DataSpec, samples: Samples, rows: Sequence[tuple[int, str, int]]) -> int:
    """Write the CSV and the pictures; return how many these are."""
    names, reader, pictures = samples.names, text_reader(spec), 0
    with (out / _FILE).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for index, identity, votes in rows:
            feed = samples[index]
            picture = _save_picture(out, identity, sample_picture(feed, spec))
            pictures += bool(picture)
            text = sample_text(feed, spec, reader) or ("" if picture else _numbers(feed))
            writer.writerow([identity, names[index] if index < len(names) else index, picture, text, votes, ""])
    return pictures


def _save_picture(out: Path, identity: str, url: str) -> str:
    if not url:
        return ""
    (out / f"{identity}.png").write_bytes(base64.b64decode(url.partition(",")[2]))
    return f"{identity}.png"


def _numbers(feed: Feed) -> str:
    """Return small inputs as they are; nothing for those that nobody reads."""
    parts = []
    for name, value in feed.items():
        if value.size <= _SHOWN_NUMBERS:
            parts.append(f"{name}: {', '.join(f'{item:g}' for item in value.reshape(-1).tolist())}")
    return "; ".join(parts)


def _identity(feed: Feed) -> str:
    """Return a short digest of the content of a sample, by which it is known again."""
    content = hashlib.sha256()
    for name in sorted(feed):
        value = feed[name]
        content.update(f"{name}{value.dtype}{value.shape}".encode())
        content.update(repr(value.tolist()).encode() if value.dtype.kind in "OU" else value.tobytes())
    return content.hexdigest()[:12]


def _shuffled(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()


# --- reading ------------------------------------------------------------------------------------------------------------


def with_labels(split: Split, file: str) -> Split:
    """Return the split with the labels of a CSV that :func:`write_label_request` wrote and somebody filled in.

    Names of the model's classes count as their numbers.

    Raises:
        UserError: When it cannot be read, holds no label, or is of other samples; or when the data has labels itself.
    """
    if not file:
        return split
    if split.evaluation.labels is not None:
        raise UserError("the data has labels for all samples", "leave --labels out")
    rows = _numbered(_read_rows(Path(file)), split.spec.classes)
    identities = [_identity(feed) for feed in split.evaluation]
    if strange := set(rows) - set(identities):
        raise UserError(
            f"{len(strange)} of {len(rows)} rows of {file} are of samples that are not evaluated here",
            "give the data and options of the build that mopt label was run on",
        )
    labels = [rows.get(identity, PartialLabel(None, _WHOLE)) for identity in identities]
    evaluation = split.evaluation.with_partial_labels(labels)
    filled = sum(label.label is not None for label in labels)
    description = {**split.description, "labels": f"{filled} of {len(labels)}, from {file}"}
    return dataclasses.replace(split, evaluation=evaluation, digest=digest([split.digest, labels]), description=description)


def _read_rows(path: Path) -> dict[str, PartialLabel]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the labels {path}: {error}", "mopt label ARTIFACT writes such a file") from None
    if not rows or not {"id", "label"} <= set(rows[0]):
        raise UserError(f"{path} has no columns id and label", "mopt label ARTIFACT writes such a file")
    labels = {str(row["id"]): PartialLabel(_label(row["label"]), _stratum(row, path)) for row in rows}
    if not any(label.label is not None for label in labels.values()):
        raise UserError(f"no label is filled in in {path}", "write the class of each sample into the column label")
    return labels


def _numbered(rows: dict[str, PartialLabel], classes: Sequence[str]) -> dict[str, PartialLabel]:
    given = {identity: row.label for identity, row in rows.items() if row.label is not None}
    numbers, _ = number_labels(list(given.values()), (), classes, asked=True)
    return {**rows, **{name: rows[name]._replace(label=number) for name, number in zip(given, numbers or (), strict=True)}}


def _label(text: str | None) -> Any:
    stripped = (text or "").strip()
    if not stripped:
        return None
    try:
        return int(stripped)
    except ValueError:
        return stripped


def _stratum(row: dict[str, Any], path: Path) -> float:
    try:
        return float(row.get("changed_by") or _WHOLE)
    except ValueError:
        raise UserError(f"{path}: changed_by is {row['changed_by']!r}, and should be a number", "leave it as it was") from None
