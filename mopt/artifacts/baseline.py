"""A baseline in a small file that is committed: what a model answered and cost, so that a gate runs without the model.

It holds one row of each metric for every sample, the model's outputs where they are small, and its costs beside a yardstick,
with the machine that they were measured on.
"""

from __future__ import annotations

__all__ = [
    "DEFAULT_FILE",
    "Baseline",
    "Packed",
    "Speed",
    "encode_answers",
    "is_baseline",
    "pack_rows",
    "read_baseline",
    "stored_answers",
    "write_baseline",
]

import base64
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from mopt.errors import UserError
from mopt.model.files import digest
from mopt.model.samples import Sample, Samples, read_feed, write_feed, write_samples
from mopt.records.manifest import Estimate, Machine
from mopt.records.verdict import Side
from mopt.system.files import check_file, disk_errors, write_whole
from mopt.system.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

DEFAULT_FILE = "mopt-baseline.json"
_MOST_OUTPUT_BYTES = 1_000_000
"""Of compressed outputs; a file that is committed stays small."""
_MOST_UNPACKED_BYTES = 1 << 30


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Speed(_Record):
    """At one batch size: figures in ms and samples per second, and each over the yardstick's less 1."""

    batch: int
    figures: dict[str, float]
    growth: dict[str, Estimate]


class Packed(_Record):
    """An array: its shape, and its bytes, compressed."""

    shape: tuple[int, ...]
    data: str


class Baseline(_Record):
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
    load_ms: float = 0.0
    first_ms: float = 0.0
    memory_bytes: int = 0
    size_bytes: int
    machine: Machine
    created: str
    mopt_version: str

    def side(self, path: str) -> Side:
        """For the record of a gate."""
        return Side(
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
        return np.frombuffer(_unpack(packed.data), dtype="<f8").reshape(packed.shape)

    def speed_at(self, batch: int) -> Speed | None:
        """Return the figures at a batch size; None when it was not measured."""
        return next((one for one in self.speed if one.batch == batch), None)

    def comparable_here(self, machine: Machine) -> bool:
        """Whether times that were measured then mean something here: the same processor and as many cores."""
        own = self.machine
        return (own.cpu, tuple(own.isa), own.cores) == (machine.cpu, tuple(machine.isa), machine.cores)


def is_baseline(path: str) -> bool:
    """Whether this is a file of JSON, and so no model and no artifact."""
    return path.endswith(".json") and Path(path).is_file()


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        UserError: When it is none, or damaged.
    """
    try:
        return Baseline.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is no baseline: {where}: {first['msg']}", "mopt baseline set writes one") from None


def write_baseline(baseline: Baseline, path: Path, *, force: bool) -> None:
    """Write it whole or not at all.

    Raises:
        UserError: When something is there that must not be replaced.
    """
    check_file(path, force=force)
    with disk_errors(path):
        write_whole(path, f"{baseline.model_dump_json(indent=1)}\n".encode())


# --- packing ------------------------------------------------------------------------------------------------------------


def pack_rows(rows: Rows) -> Packed:
    """Pack the rows of a metric."""
    import numpy as np

    return Packed(shape=rows.shape, data=_pack(np.ascontiguousarray(rows, dtype="<f8").tobytes()))


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _unpack(text: str) -> bytes:
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


def encode_answers(answers: Samples) -> str:
    """All outputs in one archive, or nothing when it is too large to be committed."""
    import numpy as np

    feeds = list(answers)
    names = list(feeds[0])
    if any(len({feed[name].shape for feed in feeds}) > 1 for name in names):
        return ""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "answers.npz"
        write_feed(path, {name: np.stack([feed[name] for feed in feeds]) for name in names})
        packed = _pack(path.read_bytes())
    return packed if len(packed) <= _MOST_OUTPUT_BYTES else ""


def stored_answers(baseline: Baseline, store: Store) -> Samples | None:
    """Return the stored outputs as samples; None where they were not kept.

    Raises:
        UserError: When the file is damaged.
    """
    if not baseline.answers:
        return None

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "answers.npz"
            path.write_bytes(_unpack(baseline.answers))
            stacked = read_feed(path)
        write_samples(
            folder, (Sample({name: values[index] for name, values in stacked.items()}) for index in range(baseline.count))
        )

    folder, _ = store.get("answers", {"answers": digest([baseline.answers])}, make)
    return Samples.at(folder)
