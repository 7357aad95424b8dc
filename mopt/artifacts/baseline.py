"""A baseline in a small file that is committed: what a model answered and cost, so that a gate runs without the model.

It holds one row of each metric for every sample, the model's outputs where they are small, and its costs beside a reference
workload,
with the machine that they were measured on.
"""

from __future__ import annotations

__all__ = ["DEFAULT_FILE", "encode_answers", "is_baseline", "read_baseline", "stored_answers", "write_baseline"]

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic

from mopt.errors import UserError
from mopt.model.samples import Sample, Samples, read_feed, write_feed, write_samples
from mopt.records.baseline import StoredBaseline, pack_bytes, unpack_bytes
from mopt.system.digests import digest
from mopt.system.files import check_file, disk_errors, write_whole
from mopt.system.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

DEFAULT_FILE = "mopt-baseline.json"
_MOST_OUTPUT_BYTES = 1_000_000
"""Of compressed outputs; a file that is committed stays small."""


def is_baseline(path: str) -> bool:
    """Whether this is a file of JSON, and so no model and no artifact."""
    return path.endswith(".json") and Path(path).is_file()


def read_baseline(path: Path) -> StoredBaseline:
    """Read a baseline.

    Raises:
        UserError: When it is none, or damaged.
    """
    try:
        return StoredBaseline.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is no baseline: {where}: {first['msg']}", "mopt baseline set writes one") from None


def write_baseline(baseline: StoredBaseline, path: Path, *, force: bool) -> None:
    """Write it whole or not at all.

    Raises:
        UserError: When something is there that must not be replaced.
    """
    check_file(path, force=force)
    with disk_errors(path):
        write_whole(path, f"{baseline.model_dump_json(indent=1)}\n".encode())


# --- packing ------------------------------------------------------------------------------------------------------------


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
        packed = pack_bytes(path.read_bytes())
    return packed if len(packed) <= _MOST_OUTPUT_BYTES else ""


def stored_answers(baseline: StoredBaseline, store: Store) -> Samples | None:
    """Return the stored outputs as samples; None where they were not kept.

    Raises:
        UserError: When the file is damaged.
    """
    if not baseline.answers:
        return None

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "answers.npz"
            path.write_bytes(unpack_bytes(baseline.answers))
            stacked = read_feed(path)
        write_samples(
            folder, (Sample({name: values[index] for name, values in stacked.items()}) for index in range(baseline.count))
        )

    folder = store.get("answers", {"answers": digest([baseline.answers])}, make)
    return Samples.at(folder)
