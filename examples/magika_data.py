"""Put magika, a real file-type classifier, and real samples for it next to the recipe in ``examples/magika``.

    pip install magika==1.0.3
    python examples/magika_data.py
    mopt build --recipe examples/magika/mopt.toml --out artifact

Nothing is downloaded: the model is the one inside the ``magika`` package, and the samples are files that this machine
already has, labelled by their extension.
"""

from __future__ import annotations

__all__ = ["features", "labels", "model", "roots", "samples", "write"]

import argparse
import collections
import hashlib
import importlib.util
import json
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

BYTES = 1024
"""Bytes that magika reads from the beginning of a file, and as many from its end."""
BLOCK = 4096
PADDING = 256
LEFT_OUT = frozenset(("txt", "pl", "h"))
"""Extensions that say little about the content: text of any kind, Perl or Prolog, C or C++ or Objective-C."""
AMBIGUOUS = frozenset(("o", "obj", "pub", "gpg", "crt"))
"""Extensions whose class is another one on most machines: ELF objects, binary key rings, PEM certificates."""


def package() -> Path:
    """Return the folder of the installed magika package, without importing it."""
    found = importlib.util.find_spec("magika")
    if found is None or found.origin is None:
        raise SystemExit("magika is not installed: pip install magika==1.0.3")
    return Path(found.origin).parent


def model() -> Path:
    """Return the ONNX file inside the package."""
    return package() / "models" / "standard_v3_3" / "model.onnx"


def labels() -> list[str]:
    """Return the names of the model's classes, in the order of its output."""
    config = json.loads((model().parent / "config.min.json").read_text())
    return list(config["target_labels_space"])


def classes_by_extension() -> dict[str, int]:
    """Return the class of each extension that belongs to exactly one class."""
    known = json.loads((package() / "config" / "content_types_kb.min.json").read_text())
    owners: dict[str, set[int]] = collections.defaultdict(set)
    for index, label in enumerate(labels()):
        for extension in known[label]["extensions"]:
            owners[extension].add(index)
    unclear = LEFT_OUT | AMBIGUOUS
    return {name: next(iter(found)) for name, found in owners.items() if len(found) == 1 and name not in unclear}


def roots() -> list[Path]:
    """Folders that every machine with Python has, and that hold files of many types."""
    places = [sysconfig.get_path("stdlib"), *site.getsitepackages(), "/usr/share", "/usr/lib", "/usr/include", "/etc"]
    return [Path(place) for place in dict.fromkeys(places) if Path(place).is_dir()]


def features(path: Path) -> np.ndarray | None:
    """Return what magika sees of a file, shape [2048], or None when it is too short for the model.

    That is the beginning without leading white space, padded at its end, then the end without trailing white space,
    padded at its beginning.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        length = min(BLOCK, size)
        stream.seek(0)
        head = stream.read(length).lstrip()[:BYTES]
        stream.seek(size - length)
        tail = stream.read(length).rstrip()[-BYTES:]
    if len(head) < 8:
        return None
    values = np.full(2 * BYTES, PADDING, np.int32)
    values[: len(head)] = np.frombuffer(head, np.uint8)
    if tail:
        values[-len(tail) :] = np.frombuffer(tail, np.uint8)
    return values


def files(folders: Sequence[Path]) -> dict[int, list[Path]]:
    """Return the files of each class in an order that mixes folders and is the same each time."""
    classes = classes_by_extension()
    found: dict[int, list[Path]] = collections.defaultdict(list)
    for root in folders:
        for folder, below, names in os.walk(root):
            below.sort()
            for name in names:
                extension = name.rpartition(".")[2]
                if extension in classes and extension != name:
                    found[classes[extension]].append(Path(folder, name))
    for paths in found.values():
        paths.sort(key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
    return found


def samples(folders: Sequence[Path], count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield ``(features, class)``, one file of each class in turn so that common types do not drown the rare ones."""
    found = {index: iter(paths) for index, paths in sorted(files(folders).items())}
    seen: set[bytes] = set()
    made = 0
    while found and made < count:
        for index in list(found):
            values = _next_new(found[index], seen)
            if values is None:
                del found[index]
            elif made < count:
                yield values, index
                made += 1


def _next_new(paths: Iterator[Path], seen: set[bytes]) -> np.ndarray | None:
    for path in paths:
        if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
            continue
        values = features(path)
        if values is not None and (digest := hashlib.sha256(values.tobytes()).digest()) not in seen:
            seen.add(digest)
            return values
    return None


def write(path: Path, pairs: Sequence[tuple[np.ndarray, int]]) -> None:
    """Write samples as ``.npz``: one array for the model's input, one for the labels."""
    np.savez_compressed(path, bytes=np.stack([values for values, _ in pairs]), label=np.array([label for _, label in pairs]))


def main() -> None:
    """Prepare the example."""
    parser = argparse.ArgumentParser(description="Prepare the model and the data of the magika example.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "magika", help="where to put them")
    parser.add_argument("--count", type=int, default=2000, help="number of samples")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model(), arguments.folder / "magika.onnx")
    pairs = list(samples(roots(), arguments.count))
    write(arguments.folder / "magika.npz", pairs)
    print(f"{len(pairs)} files of {len({label for _, label in pairs})} types: {arguments.folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
