"""Azure Data Lake Storage by the name that Hadoop gave its scheme."""

from __future__ import annotations

__all__ = ["AzureDataLake"]

import dataclasses
from typing import ClassVar

from mopt.storage.az import Azure


@dataclasses.dataclass(frozen=True)
class AzureDataLake(Azure):
    """The same as ``az://``: ``abfs://container@account.dfs.core.windows.net/path``."""

    takes: ClassVar[str] = "abfs://container/path or abfs://container@account.dfs.core.windows.net/path"
