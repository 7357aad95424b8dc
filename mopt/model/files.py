"""A model on disk: immutable, content-addressed, with a format."""

from __future__ import annotations

__all__ = ["Model"]

import dataclasses
from pathlib import Path

from mopt.model.formats import model_format
from mopt.system.digests import folder_digest


@dataclasses.dataclass(frozen=True)
class Model:
    """A folder that holds one model, named by the digest of its content."""

    format: str
    folder: Path
    digest: str

    @property
    def file(self) -> Path:
        """The file that a runtime is given."""
        return self.folder / model_format(self.format).main_file

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    @classmethod
    def at(cls, format_name: str, folder: Path) -> Model:
        """Hash a folder and describe it."""
        return cls(format_name, folder, folder_digest(folder))

    @classmethod
    def source_of(cls, format_name: str, folder: Path) -> Model:
        """Describe the ONNX that a model in ``folder`` was made from and that lies in it."""
        return cls.at("onnx", folder / model_format(format_name).source_folder)
