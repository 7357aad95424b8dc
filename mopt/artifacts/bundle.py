"""Write an artifact whole or not at all."""

from __future__ import annotations

__all__ = [
    "NOT_WRITTEN",
    "add_serving",
    "check_destination",
    "copy_model",
    "copy_tree",
    "file_digests",
    "place",
    "published",
    "serving_warnings",
    "write_artifact",
]

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mopt.artifacts.artifact import FILE_NAME, SKETCH_NAME, Artifact, golden_file, hash_once
from mopt.artifacts.monitoring.folder import FOLDER, write_monitoring
from mopt.artifacts.serving._base import ServingSystem, make_system, system_name
from mopt.artifacts.serving._releases import release_warnings
from mopt.errors import NotApplicableError, UserError
from mopt.model.files import Model
from mopt.model.samples import write_feed
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.records.sketch import Sketch
from mopt.system import plugins
from mopt.system.files import (
    disk_errors,
    exchange,
    files_below,
    link_or_copy,
    make_durable,
    partial_folder,
    partial_prefix,
    remove_stale,
    sync,
)
from mopt.system.store import KEY_FILE

NOT_WRITTEN = "NOT-WRITTEN.md"
"""In the folder of a serving system that cannot serve the model: the reason."""
_MARKS = {"schema_version", "mopt_version", "chosen", "files"}
"""Keys of a manifest.json that tell an artifact from any other folder with a file of that name."""


def check_destination(
    destination: Path, *, force: bool = False, ours: Callable[[Path], bool] | None = None, what: str = "an artifact"
) -> None:
    """Refuse a destination that an artifact cannot be written to, before any work is done for it.

    Args:
        destination: A folder.
        force: Whether what is ours may be replaced.
        ours: Whether a folder is one that may be replaced; default: an artifact.
        what: Such a folder in words.

    Raises:
        UserError: When something is there that must not be replaced, or the folder cannot be written to.
    """
    destination = _absolute(destination)
    if destination.is_symlink():
        raise UserError(f"{destination} is a symbolic link", "give the folder that it points to, or another name")
    if destination.exists():
        _check_existing(destination, force=force, ours=ours or _is_artifact, what=what)
    parent = next(path for path in destination.parents if path.exists())
    if not parent.is_dir():
        raise UserError(f"{parent} is a file, not a folder", "choose another destination")
    try:
        with disk_errors(parent), tempfile.TemporaryDirectory(prefix=partial_prefix(destination), dir=parent):
            pass
    except FileNotFoundError:  # what /proc and its like answer
        raise UserError(f"no folder can be made in {parent}", "choose a folder that you may write to") from None


def write_artifact(
    destination: Path,
    *,
    model: Model,
    manifest: Manifest,
    golden_inputs: Sequence[Feed],
    golden_outputs: Sequence[Feed],
    reports: Callable[[Manifest], Mapping[str, str]] = lambda _: {},
    serving: Sequence[str] = (),
    sketch: Sketch | None = None,
    force: bool = False,
) -> Manifest:
    """Write the artifact folder and return its manifest with the digests of its files.

    Everything is written to a hidden folder beside ``destination`` and then renamed; an artifact that is replaced is
    swapped with it in one step. Whenever the process is killed, ``destination`` is the old artifact or the new one,
    whole, and what is left beside it is removed by the next build.

    Args:
        destination: Where the folder will be.
        model: The chosen model; its files are copied.
        manifest: Without ``files``.
        golden_inputs: Single samples.
        golden_outputs: What the chosen model made of each of them.
        reports: Return text by file name, from the manifest with what became of the serving systems.
        serving: Names of serving systems to write files for.
        sketch: Of the samples, for requests to be compared with.
        force: Replace an artifact that is there already.

    Raises:
        UserError: When the destination cannot be written or must not be replaced; nothing is left then.
    """
    with published(destination, force=force) as partial:
        copy_model(model, partial / "model")
        _write_golden(partial / "golden", golden_inputs, golden_outputs)
        warnings = [text for name in serving for text in _write_serving(name, partial, manifest, golden_inputs)]
        manifest = manifest.model_copy(update={"warnings": (*manifest.warnings, *warnings)})
        _write_monitoring(partial, manifest, serving, drift=sketch is not None)
        if sketch is not None:
            (partial / SKETCH_NAME).write_text(sketch.model_dump_json() + "\n", encoding="utf-8")
        for name, text in reports(manifest).items():
            (partial / name).write_text(text, encoding="utf-8")
        return _write_manifest(partial, manifest)


def _write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write it last, with the digests of all that is there."""
    manifest = manifest.model_copy(update={"files": file_digests(folder)})
    (folder / FILE_NAME).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def add_serving(built: Artifact, serving: Sequence[str], destination: Path, *, force: bool) -> Manifest:
    """Write an artifact again with the files of further serving systems, as atomically as it was written; return its manifest.

    Args:
        built: What is written again; it stays as it is where ``destination`` is another folder.
        serving: Names of serving systems; the files of one that are there already are replaced.
        destination: Where the folder will be.
        force: Replace what is there already.

    Raises:
        NotApplicableError: When one of them cannot serve this model; nothing is written then.
        UserError: When the destination cannot be written or must not be replaced.
    """
    inputs = [feed for feed, _ in built.golden()]
    systems = [make_system(name) for name in serving]
    names = {system.name for system in systems}
    kept = [name for name in built.manifest.recipe.get("serve", ()) if system_name(name) not in names]
    recipe = {**built.manifest.recipe, "serve": [*kept, *serving]}
    with published(destination, force=force) as partial:
        copy_tree(built.folder, partial)
        (partial / FILE_NAME).unlink()
        manifest = built.manifest.model_copy(update={"recipe": recipe, "files": {}})
        for system in systems:
            folder = partial / "serving" / system.name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            system.write(folder, manifest=manifest, model_folder=partial / "model", golden=inputs)
        _write_monitoring(partial, manifest, recipe["serve"], drift=(partial / SKETCH_NAME).is_file())
        return _write_manifest(partial, manifest)


def place(artifact: Path, destination: Path, *, force: bool = False) -> None:
    """Copy an artifact that is whole, from the cache say, to ``destination``, as atomically as it was written.

    Raises:
        UserError: When the destination cannot be written or must not be replaced; nothing is left then.
    """
    with published(destination, force=force) as partial:
        copy_tree(artifact, partial)


@contextlib.contextmanager
def published(
    destination: Path, *, force: bool, ours: Callable[[Path], bool] | None = None, what: str = "an artifact"
) -> Iterator[Path]:
    """Yield a hidden folder beside ``destination`` that becomes it in one step, when the block ends well.

    The arguments are those of :func:`check_destination`.
    """
    destination = _absolute(destination)
    check_destination(destination, force=force, ours=ours, what=what)
    with disk_errors(destination), _parents(destination):
        _recover(destination)
        remove_stale(destination)
        with partial_folder(destination) as partial:
            yield partial
            _set_folder_modes(partial)
            make_durable(partial, 0o644)
            _publish(partial, destination, force=force, ours=ours or _is_artifact, what=what)


def copy_tree(source: Path, target: Path) -> None:
    """Copy files, and keep which of them are one file with two names."""
    copies: dict[int, Path] = {}
    for path in files_below(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        inode = path.stat().st_ino
        if inode in copies:
            link_or_copy(copies[inode], copy)
        else:
            shutil.copyfile(path, copy)
            copies[inode] = copy


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _check_existing(destination: Path, *, force: bool, ours: Callable[[Path], bool], what: str) -> None:
    if not destination.is_dir():
        raise UserError(f"{destination} is a file", "choose another destination")
    if os.path.ismount(destination):
        raise UserError(f"{destination} is a mount point and cannot be replaced", "choose a folder inside it")
    if Path.cwd().is_relative_to(destination):
        raise UserError(f"{destination} is the current folder, or holds it", "choose a folder inside it")
    with disk_errors(destination):
        empty = next(destination.iterdir(), None) is None
    if empty:
        return
    if not ours(destination):
        raise UserError(f"{destination} is not empty, and not {what}", "choose another destination")
    if not force:
        raise UserError(f"{destination} exists already", "replace it with --force, or choose another destination")


def _is_artifact(folder: Path) -> bool:
    """Whether mopt wrote this folder; a damaged manifest counts as long as it is a manifest."""
    try:
        data = json.loads((folder / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.keys() >= _MARKS


@contextlib.contextmanager
def _parents(destination: Path) -> Iterator[None]:
    """Make the folders above ``destination``, and remove them again when the write fails."""
    missing = [path for path in destination.parents if not path.exists()]
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:  # even an interrupt must not leave empty folders behind; raised again
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def copy_model(model: Model, folder: Path) -> None:
    """Copy, never link: the store's files must not change when somebody edits the artifact."""
    for source in files_below(model.folder):
        name = source.relative_to(model.folder)
        if name.as_posix() != KEY_FILE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def _write_golden(folder: Path, inputs: Sequence[Feed], outputs: Sequence[Feed]) -> None:
    for index, (feed, answer) in enumerate(zip(inputs, outputs, strict=True)):
        (folder / f"{index:03d}").mkdir(parents=True)
        write_feed(golden_file(folder, index, "inputs"), feed)
        write_feed(golden_file(folder, index, "outputs"), answer)


def _write_serving(name: str, artifact: Path, manifest: Manifest, golden: Sequence[Feed]) -> list[str]:
    """Write the files of one system, or why there are none; return what people must know of it."""
    system = make_system(name)
    folder = artifact / "serving" / system.name
    folder.mkdir(parents=True)
    try:
        system.write(folder, manifest=manifest, model_folder=artifact / "model", golden=golden)
        return serving_warnings(system, manifest, artifact / "model")
    except NotApplicableError as error:
        shutil.rmtree(folder)
        folder.mkdir()
        reason = f"no files for {name}, since it cannot serve this model: {error.message}"
        (folder / NOT_WRITTEN).write_text(f"{reason[0].upper()}{reason[1:]}.\n", encoding="utf-8")
        return [reason]


def _write_monitoring(artifact: Path, manifest: Manifest, serving: Sequence[str], *, drift: bool) -> None:
    """Write how to watch the systems that have files; one of another package is known only where that is installed."""
    folder, installed = artifact / "serving", plugins.names("serving")
    written = [name for name in map(system_name, serving) if not (folder / name / NOT_WRITTEN).is_file()]
    systems = [plugins.load("serving", name)() for name in written if name in installed]
    write_monitoring(artifact / FOLDER, manifest, systems, serving=folder, drift=drift)


def serving_warnings(system: ServingSystem, manifest: Manifest, model_folder: Path) -> list[str]:
    """Return what people must know before they serve with a system: its release, and whether anybody looks after it.

    Raises:
        NotApplicableError: When the release that was named cannot load the model.
    """
    warnings = [f"{system.name}: {text}" for text in release_warnings(manifest, system, model_folder)]
    return [*warnings, *([f"{system.name}: {system.unmaintained}"] if system.unmaintained else [])]


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path."""
    digests: dict[tuple[int, int], str] = {}
    return {path.relative_to(folder).as_posix(): hash_once(path, digests) for path in files_below(folder)}


def _set_folder_modes(folder: Path) -> None:
    for parent, _, _ in os.walk(folder):
        Path(parent).chmod(0o755)


def _publish(partial: Path, destination: Path, *, force: bool, ours: Callable[[Path], bool], what: str) -> None:
    try:
        partial.rename(destination)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        check_destination(destination, force=force, ours=ours, what=what)  # another build may have been faster
        _replace(partial, destination)
    sync(destination.parent)


def _replace(partial: Path, destination: Path) -> None:
    if exchange(partial, destination):
        shutil.rmtree(partial, ignore_errors=True)
        return
    aside = Path(tempfile.mkdtemp(prefix=_aside_prefix(destination), dir=destination.parent))
    destination.rename(aside)
    try:
        partial.rename(destination)
    except OSError:
        aside.rename(destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _aside_prefix(destination: Path) -> str:
    return f".{destination.name}.replaced-"


def _recover(destination: Path) -> None:
    """Undo what a kill between the two renames of :func:`_replace` left, where folders cannot be swapped."""
    for aside in destination.parent.iterdir():
        if aside.name.startswith(_aside_prefix(destination)) and not aside.is_symlink() and aside.is_dir():
            if destination.exists():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.rename(destination)
