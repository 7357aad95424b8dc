"""What a stored baseline holds: scores, outputs, costs."""

from __future__ import annotations

__all__ = ["Packed", "Speed", "StoredBaseline", "pack_bytes", "pack_rows", "unpack_bytes"]

import base64
import zlib
from typing import TYPE_CHECKING, Any, Literal

from mopt.errors import UserError
from mopt.records._base import Record, StampedRecord
from mopt.records.measurement import Estimate, Machine
from mopt.records.verdict import ComparedModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]


_MOST_UNPACKED_BYTES = 1 << 30
"""A file from somewhere else may unpack to no more: a small one can be made to fill the memory."""


class Speed(Record):
    """At one batch size: figures in ms and samples per second, and each over the reference workload's less 1."""

    batch: int
    figures: dict[str, float]
    growth: dict[str, Estimate]


class Packed(Record):
    """An array: its shape, and its bytes, compressed."""

    shape: tuple[int, ...]
    data: str


class StoredBaseline(StampedRecord):
    """What is kept of a model."""

    baseline_version: Literal[1] = 1
    name: str
    source: str
    digest: str
    runtime: str
    runtime_fields: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: str
    samples: str
    """Digest of the samples that it answered."""
    count: int
    calibration: int
    evaluation: int
    seed: int
    rows: dict[str, Packed]
    answers: str = ""
    """Outputs for all samples, an archive in base64; empty where they are too large."""
    speed: tuple[Speed, ...] = ()
    disturbed: str = ""
    """What took the time, where the speed had to be measured beside other work; then it is not compared."""
    load_ms: float = 0.0
    first_ms: float = 0.0
    memory_bytes: int = 0
    size_bytes: int
    machine: Machine

    def record(self, path: str) -> ComparedModel:
        """For the record of a gate."""
        return ComparedModel(
            name=self.name,
            source=path,
            digest=self.digest,
            runtime=self.runtime,
            size_bytes=self.size_bytes,
            machine=self.machine,
        )

    def rows_of(self, metric: str) -> Rows:
        """Return the rows of a metric.

        Raises:
            UserError: When the baseline was made without it.
        """
        import numpy as np

        if metric not in self.rows:
            raise UserError(
                f"the baseline has no {metric}, only {', '.join(self.rows)}",
                f"make it again with --metric {metric}, or name one",
            )
        packed = self.rows[metric]
        return np.frombuffer(unpack_bytes(packed.data), dtype="<f8").reshape(packed.shape)

    def speed_at(self, batch: int) -> Speed | None:
        """Return the figures at a batch size; None when it was not measured."""
        return next((figures for figures in self.speed if figures.batch == batch), None)

    def comparable_here(self, machine: Machine) -> bool:
        """Whether times that were measured then mean something here: the same processor and as many cores."""
        recorded = self.machine
        return (recorded.cpu, tuple(recorded.isa), recorded.cores) == (machine.cpu, tuple(machine.isa), machine.cores)


def pack_rows(rows: Rows) -> Packed:
    """Pack the rows of a metric."""
    import numpy as np

    return Packed(shape=rows.shape, data=pack_bytes(np.ascontiguousarray(rows, dtype="<f8").tobytes()))


def pack_bytes(data: bytes) -> str:
    """Compress bytes into text for JSON."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def unpack_bytes(text: str) -> bytes:
    """Undo :func:`pack_bytes`, up to a limit.

    Raises:
        UserError: When the text is damaged or too large.
    """
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_UNPACKED_BYTES)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise zlib.error("too much, or cut off")
        return data
    except (ValueError, zlib.error):
        raise UserError(
            "the baseline is damaged: its data cannot be unpacked", "make it again with mopt baseline set"
        ) from None
