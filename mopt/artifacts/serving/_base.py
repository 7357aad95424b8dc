"""What every serving system is: the files that it loads the model from, and what they can tell a runtime."""

from __future__ import annotations

__all__ = ["ANY", "ServingSystem", "Settable"]

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.system.plugins import name_of

ANY: tuple[object, ...] = ()
"""In place of the values of an option: every value can be set."""


@dataclasses.dataclass(frozen=True)
class Settable:
    """What the files of a serving system can tell one runtime; all else is what the runtime does by itself.

    Attributes:
        options: Options of the runtime that can be set, each with the values that it may be set to.
        otherwise: Where to turn for another value, for people to read.
    """

    options: Mapping[str, tuple[object, ...]]
    otherwise: str = ""

    def takes(self, option: str, value: object) -> bool:
        """Whether an option can be set to a value."""
        return option in self.options and (self.options[option] == ANY or value in self.options[option])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingSystem(abc.ABC):
    """Writes the folder that one serving system loads."""

    settable: ClassVar[Mapping[str, Settable]] = {}
    """By runtime, what :meth:`write` can tell it; candidates are judged with nothing else. A runtime that is not here is told
    everything, as by a service in Python, or it is not served at all."""

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
