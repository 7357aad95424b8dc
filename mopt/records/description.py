"""What ``mopt inspect`` says."""

from __future__ import annotations

__all__ = ["ModelDescription"]

from typing import Any

from mopt.records._base import Record


class ModelDescription(Record):
    """What a model is, without running it."""

    artifact: str = ""
    """Name of the artifact that it lies in."""
    chosen: str = ""
    """The candidate that the artifact ships."""
    format: str
    file: str
    opset: int | None = None
    producer: str = ""
    parameters: int | None = None
    size_bytes: int
    """With external data."""
    inputs: tuple[dict[str, Any], ...]
    """Name, type and shape of each."""
    outputs: tuple[dict[str, Any], ...]
    weights: dict[str, tuple[int, int]]
    """Number of tensors and of bytes, by type."""
    operators: dict[str, int]
    """How often each occurs, the most frequent first."""
