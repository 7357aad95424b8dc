"""What every record is: frozen, strict, and JSON that any program reads."""

from __future__ import annotations

__all__ = ["Record", "StampedRecord", "stamp"]

import datetime
from importlib import metadata
from typing import Any

import pydantic

from mopt.system.schema import Schema


class Record(Schema):
    """A part of a JSON that mopt writes."""

    # A signal-to-noise ratio may be infinite, and JSON has no number for that.
    model_config = pydantic.ConfigDict(ser_json_inf_nan="strings")


class StampedRecord(Record):
    """A JSON that stands alone: it says when it was written, and by which mopt."""

    created: str
    """UTC, ISO 8601."""
    mopt_version: str


def stamp() -> dict[str, Any]:
    """Return the fields of a :class:`StampedRecord` for now and this mopt."""
    now = datetime.datetime.now(datetime.UTC)
    return {"created": now.isoformat(timespec="seconds"), "mopt_version": metadata.version("mopt")}
