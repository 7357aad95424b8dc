"""What every schema of mopt is, in memory as on disk: frozen, and strict about its keys."""

from __future__ import annotations

__all__ = ["Schema"]

import pydantic


class Schema(pydantic.BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")
