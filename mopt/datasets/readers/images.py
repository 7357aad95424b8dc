"""Read a folder of pictures; subfolders are classes, numbered in order of name."""

from __future__ import annotations

__all__ = ["ImageReader"]

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.datasets.readers._base import Reader

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageReader(Reader):
    """Pictures below class folders, or in a flat folder without labels. They are decoded one by one."""

    accepts: ClassVar[str] = "a folder of images: one subfolder for each class, or flat without labels"
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Whether it is a folder with pictures in it, or one level below."""
        return path.is_dir() and (_has_image(path) or any(_has_image(child) for child in _subfolders(path)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The picture, under the name of the only input."""
        return (self._column,)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders."""
        return () if _has_image(self.path) else tuple(folder.name for folder in _subfolders(self.path))

    @functools.cached_property
    def labels(self) -> list[Any] | None:
        """Number of the class folder."""
        if not self.classes:
            return None
        number = {name: index for index, name in enumerate(self.classes)}
        return [number[file.relative_to(self.path).parts[0]] for file in self._files]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return the path of the picture, which the preprocessing decodes."""
        return {self._column: self._files[index]}

    def name(self, index: int) -> str:
        """Path below the folder."""
        return self._files[index].relative_to(self.path).as_posix()

    @property
    def _column(self) -> str:
        return self.inputs[0].name if len(self.inputs) == 1 else "image"

    @functools.cached_property
    def _files(self) -> list[Path]:
        roots = [self.path] if not self.classes else [self.path / name for name in self.classes]
        return sorted(
            file for root in roots for file in (root.rglob("*") if self.classes else root.iterdir()) if _is_image(file)
        )


def _subfolders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _has_image(path: Path) -> bool:
    return any(_is_image(file) for file in path.iterdir())


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
