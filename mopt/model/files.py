"""A model on disk: immutable, content-addressed, with a form and a signature."""

from __future__ import annotations

__all__ = ["Model"]

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.system.digests import folder_digest

if TYPE_CHECKING:
    pass


MAIN_FILES = {"onnx": "model.onnx", "openvino": "model.xml", "tensorrt": "model.plan"}


@dataclasses.dataclass(frozen=True)
class Model:
    """A folder that holds one model, named by the digest of its content."""

    format: str
    folder: Path
    digest: str

    @property
    def file(self) -> Path:
        """The file that a runtime is given."""
        return self.folder / MAIN_FILES[self.format]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    @classmethod
    def at(cls, format_name: str, folder: Path) -> Model:
        """Hash a folder and describe it."""
        return cls(format_name, folder, folder_digest(folder))
