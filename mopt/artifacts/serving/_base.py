"""What every serving system is: the files that it loads the model from."""

from __future__ import annotations

__all__ = ["ServingSystem"]

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.system.plugins import name_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingSystem(abc.ABC):
    """Writes the folder that one serving system loads."""

    @property
    def name(self) -> str:
        """The name of the serving system: its file's, or its entry point's."""
        return name_of(type(self))

    @abc.abstractmethod
    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Fill an empty folder.

        Args:
            folder: Where the files go.
            manifest: What was built, with the batch settings to serve it with; its ``files`` may still be empty.
            model_folder: The model's files, on the same disk; link to them rather than copy.
            golden: Real inputs for a batch of one, for warm-up requests; may be empty.

        Raises:
            NotApplicableError: When this system cannot serve this model.
        """
