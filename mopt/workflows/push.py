"""Put an artifact where a serving system or a registry takes it from, complete or not at all."""

from __future__ import annotations

__all__ = ["Pushed", "push"]

import dataclasses
from pathlib import Path

from mopt.artifacts import bundle
from mopt.artifacts.artifact import FILE_NAME, Artifact
from mopt.errors import UserError
from mopt.progress import Progress, Silent
from mopt.records.manifest import Manifest
from mopt.storage._base import Storage, Upload, content_digest, is_url, storage_of, transfer
from mopt.storage._fetch import fetched
from mopt.system.plugins import names

_REPORT = "report.html"
_SERVED = ("model", "serving")
"""Folders of an artifact that servers load from: the model's, and one for each serving system."""


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What is where after a push.

    Attributes:
        url: By which the artifact is found.
        files: How many there are.
        size_bytes: Of all of them.
        storage_uris: What KServe's storage initializer takes, by folder of the artifact; none where it takes none.
    """

    url: str
    files: int
    size_bytes: int
    storage_uris: dict[str, str]


def push(artifact: str | Path, url: str, *, force: bool = False, progress: Progress | None = None) -> Pushed:
    """Upload an artifact; readers find all of it or nothing, also when this is killed in the middle.

    Every file is compared with what is there afterwards: by the digest that the server tells, else by reading it back.

    Args:
        artifact: A folder that mopt build wrote, or the URL of one.
        url: Where it goes: ``s3://bucket/path``, ``hf://org/repo``, ``models:/NAME``, ``file:///folder``, ...
        force: Replace an artifact that is there.
        progress: Receives the stages.

    Raises:
        UserError: When the artifact is not what was built, something is there already, or it cannot be written.
        MissingDependencyError: When the library of the scheme is not installed.
    """
    progress = progress or Silent()
    if not is_url(url):
        raise UserError(f"{url} is no URL", f"write one of {', '.join(f'{scheme}:' for scheme in ('file', *names('storage')))}")
    place = storage_of(url)
    built = Artifact.open(fetched(artifact, progress))
    upload = _upload(built)
    if isinstance(place, Path):
        with transfer(progress, f"copying to {url}", upload.size):
            bundle.place(built.folder, place, force=force)
            Artifact.open(place)
        return Pushed(url, len(upload.digests), upload.size, {})
    with transfer(progress, f"pushing to {url}", upload.size) as sent:
        published = place.publish(upload, replace=force, sent=sent)
    return Pushed(published, len(upload.digests), upload.size, _storage_uris(place.at(published), built.folder))


def _upload(built: Artifact) -> Upload:
    manifest = built.manifest
    return Upload(
        folder=built.folder,
        digests={**manifest.files, FILE_NAME: content_digest(built.folder / FILE_NAME, "sha256")},
        last=FILE_NAME,
        title=manifest.name,
        metrics=_metrics(manifest),
        parameters=_parameters(manifest),
        report=_REPORT if _REPORT in manifest.files else "",
    )


def _metrics(manifest: Manifest) -> dict[str, float]:
    """What was measured of the chosen model: quality, latency in ms, the speed-up with its interval, bytes."""
    trial = manifest.winner
    metrics: dict[str, float] = {} if trial.size_bytes is None else {"size_bytes": trial.size_bytes}
    if (quality := trial.quality) is not None:
        metrics |= {
            "quality": quality.value, "quality_reference": quality.reference, "quality_difference": quality.difference,
            "quality_bound": quality.bound, "quality_allowed": quality.allowed, "quality_samples": quality.count,
        }  # fmt: skip
    if (profile := trial.profile) is not None:
        metrics |= {"load_ms": profile.load_ms, "first_ms": profile.first_ms, "peak_bytes": profile.peak_bytes}
        for entry in profile.batches:
            batch = f"batch_{entry.batch}"
            metrics |= {f"{batch}_p50_ms": entry.p50.value, f"{batch}_p99_ms": entry.p99.value}
            metrics |= {f"{batch}_throughput": entry.throughput}
            if (ratio := entry.ratio) is not None:
                metrics |= {
                    f"{batch}_speedup": ratio.value, f"{batch}_speedup_low": ratio.low, f"{batch}_speedup_high": ratio.high
                }  # fmt: skip
    return metrics


def _parameters(manifest: Manifest) -> dict[str, str]:
    trial, quality = manifest.winner, manifest.winner.quality
    texts = {
        "chosen": manifest.chosen,
        "runtime": manifest.runtime,
        "format": manifest.format,
        "precision": trial.effective_precision,
        "target": str(manifest.target.get("name", "")),
        "tolerance": str(manifest.recipe.get("tolerance", "")),
        "metric": quality.metric if quality else "",
        "verdict": f"{quality.verdict}, {quality.standing}" if quality else "",
        "deployable": str(manifest.deployable).lower(),
        "source": manifest.source.source,
        "source_sha256": manifest.source.source_digest,
        "machine": f"{manifest.machine.cpu}, {manifest.machine.cores} cores",
        "mopt_version": manifest.mopt_version,
    }
    return {name: text for name, text in texts.items() if text}


def _storage_uris(storage: Storage, folder: Path) -> dict[str, str]:
    folders = [_SERVED[0], *(f"{_SERVED[1]}/{path.name}" for path in sorted((folder / _SERVED[1]).glob("*/")))]
    uris = {name: storage.serving_uri(name) for name in folders}
    return {name: uri for name, uri in uris.items() if uri}
