"""Releases of serving systems: which libraries they load models with, and whether these load this one."""

from __future__ import annotations

__all__ = ["Release", "check_release", "find_release", "fitting_release", "known_releases", "release_warnings"]

import dataclasses
import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.errors import NotApplicableError, UserError
from mopt.model.formats import model_format
from mopt.model.onnx_io import read_versions
from mopt.records.manifest import Manifest
from mopt.system.plugins import nearest

if TYPE_CHECKING:
    from packaging.version import Version

    from mopt.artifacts.serving._base import ServingSystem

_LIBRARIES = {"onnxruntime": "onnxruntime", "onnxruntime_gpu": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}
_NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorflow": "TensorFlow", "tensorrt": "TensorRT"}
_DEMANDS = {"opset": "opset", "ml": "opset of ai.onnx.ml", "ir": "IR version"}
_OPENVINO_OPSET = re.compile(rb'\bversion="opset(\d+)"')


@dataclasses.dataclass(frozen=True)
class Release:
    """A release of a serving system.

    Attributes:
        system: Name of the serving system.
        name: Such as ``26.07``.
        versions: Of the libraries in it, or of the servers that it starts.
    """

    system: str
    name: str
    versions: Mapping[str, str]


@functools.cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "releases.toml").read_text(encoding="utf-8"))


def _version(text: str) -> Version:
    from packaging.version import Version

    return Version(text)


def known_releases(system: str) -> tuple[Release, ...]:
    """Return the releases of a serving system that are known here, the oldest first; none where no table has it."""
    table = _tables().get(system, {}) if system != "loads" else {}
    return tuple(Release(system, name, versions) for name, versions in sorted(table.items(), key=lambda row: _version(row[0])))


def find_release(system: str, name: str) -> Release:
    """Return a release by its name.

    Raises:
        UserError: When there is none of that name.
    """
    known = {release.name: release for release in known_releases(system)}
    if name not in known:
        raise UserError(f"unknown release of {system}: {name}", nearest(name, known))
    return known[name]


def check_release(system: str, releases: str, name: str) -> None:
    """Check that a serving system can be asked for a release.

    Args:
        system: Its name.
        releases: The system whose releases can be named for it; empty where none can.
        name: The release.

    Raises:
        UserError: When none can, or their table has no such release.
    """
    if not releases:
        raise UserError(f"{system} has no releases to choose from: {system}@{name}", f"write {system} alone")
    if known_releases(releases):
        find_release(releases, name)


def fitting_release(manifest: Manifest, system: ServingSystem, model_folder: Path) -> Release | None:
    """Return the release that is named, or the newest that loads the model; None where none is known or none does."""
    if system.release:
        return next((release for release in known_releases(system.name) if release.name == system.release), None)
    library, demands = _demands(manifest, model_folder)
    fitting = [release for release in known_releases(system.name) if not _obstacle(release, library, demands)]
    return fitting[-1] if fitting else None


def release_warnings(manifest: Manifest, system: ServingSystem, model_folder: Path) -> list[str]:
    """Return what is not as it was judged in the release that the user names; nothing where none is named.

    Raises:
        NotApplicableError: When that release cannot load the model, with the one that can.
    """
    if not system.release or not known_releases(system.name):
        return []
    release, (library, demands) = find_release(system.name, system.release), _demands(manifest, model_folder)
    if obstacle := _obstacle(release, library, demands):
        raise NotApplicableError(f"{obstacle}; {_remedy(release, library, demands)}")
    judged, served = _judged(manifest, library), release.versions.get(library, "")
    if library == "tensorrt" and not served:
        version = judged or "its own version"
        unknown = f"Which TensorRT the release {release.name} has is not known here"
        return [f"{unknown}: an engine loads in {version} alone. mopt rebuild makes one for another."]
    if judged and served and _version(judged) != _version(served):
        name = _NAMES[library]
        if library == "tensorflow" and _version(served) < _version(judged):
            older = f"TensorFlow {judged}, and the release {release.name} has TensorFlow {served}"
            return [
                f"Judged with {older}: an older one need not load what a newer one has written. Take {_of(release, judged)}."
            ]
        warning = (
            f"Judged with {name} {judged}, and the release {release.name} has {name} {served}: it loads the model, and speed "
        )
        return [f"{warning}and last digits may differ. mopt verify --server URL shows whether the answers are the same."]
    return []


def _of(release: Release, judged: str) -> str:
    """The newest release of a system that has a version of its library, patches apart."""
    wanted = _version(judged).release[:2]
    fitting = [
        each
        for each in known_releases(release.system)
        if any(_version(v).release[:2] == wanted for v in each.versions.values())
    ]
    return fitting[-1].name if fitting else "a newer one"


def _judged(manifest: Manifest, library: str) -> str:
    """The version of the library that the model was judged with."""
    if library == "tensorrt":
        return str(manifest.runtime_fields.get("version") or "")
    names = (library, f"{library}-gpu", f"{library}-cpu")
    return next((manifest.versions[name] for name in names if manifest.versions.get(name)), "")


def _demands(manifest: Manifest, model_folder: Path) -> tuple[str, dict[str, int]]:
    """The library that loads the model, and what the model demands of it; nothing where its file is no such model."""
    library = _LIBRARIES.get(manifest.runtime, manifest.runtime)
    path = model_folder / model_format(manifest.format).main_file
    if not path.is_file():
        return library, {}
    if manifest.format == "openvino":
        opsets = [int(number) for number in _OPENVINO_OPSET.findall(path.read_bytes())]
        return library, {"opset": max(opsets)} if opsets else {}
    versions = read_versions(path) if manifest.format == "onnx" else None
    if versions is None:
        return library, {}
    opset = max(versions.opsets.get("", 0), versions.opsets.get("ai.onnx", 0))
    return library, {"opset": opset, "ml": versions.opsets.get("ai.onnx.ml", 0), "ir": versions.ir}


def _loads(library: str, version: str) -> Mapping[str, int]:
    """The most that a version of a library loads; nothing where that is not known."""
    rows: dict[str, dict[str, int]] = _tables()["loads"].get(library, {})
    reached = [row for row in rows if version and _version(row) <= _version(version)]
    return rows[max(reached, key=_version)] if reached else {}


def _obstacle(release: Release, library: str, demands: Mapping[str, int]) -> str:
    """Why a release does not load a model; empty where it does, or where that is not known."""
    version = release.versions.get(library, "")
    for name, most in _loads(library, version).items():
        if demands.get(name, 0) > most:
            return (
                f"the release {release.name} has {_NAMES[library]} {version}, which loads {_DEMANDS[name]} {most} at most, "
                f"and the model has {demands[name]}"
            )
    return ""


def _remedy(release: Release, library: str, demands: Mapping[str, int]) -> str:
    """From which release on a model is loaded, and what the named one would load."""
    limits = _loads(library, release.versions[library])
    allowed = ", ".join(f"{_DEMANDS[name]} {most}" for name, most in limits.items() if demands.get(name, 0) > most)
    known = known_releases(release.system)
    first = next((each for index, each in enumerate(known) if not _any_obstacle(known[index:], library, demands)), None)
    newer = f"{first.name} or newer loads it" if first else f"no release that is known here loads it, up to {known[-1].name}"
    return f"{newer}, and {release.name} would load {allowed}"


def _any_obstacle(releases: Sequence[Release], library: str, demands: Mapping[str, int]) -> bool:
    return any(_obstacle(release, library, demands) for release in releases)
