"""What long work tells the caller while it runs."""

from __future__ import annotations

__all__ = ["Progress", "Silent"]

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a build; the command line draws them, Python ignores them by default."""

    def stage(self, title: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def step(self, note: str = "") -> None:
        """One step of the stage is done; ``note`` is what came of it, when that is worth a line."""

    def note(self, text: str) -> None:
        """Something happened that is worth a line, between two steps."""


class Silent:
    """Ignores everything."""

    def stage(self, title: str, total: int) -> None:
        """Ignore it."""

    def step(self, note: str = "") -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
