"""Azure Blob Storage and Data Lake Storage, through adlfs."""

from __future__ import annotations

__all__ = ["Azure"]

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from mopt.errors import MissingDependencyError
from mopt.storage._base import RemoteFile
from mopt.storage._object_store import ObjectStore

_HOST = re.compile(r"(?P<container>[a-z0-9$-]+)@(?P<account>[a-z0-9]+)\.(dfs|blob)\.core\.windows\.net")
_ACCOUNT = re.compile(r"(?:^|;)AccountName=([a-z0-9]+)")


@dataclasses.dataclass(frozen=True)
class Azure(ObjectStore):
    """Blobs of a container: ``az://container/path``, or with its account ``az://container@account.blob.core.windows.net/path``."""

    takes: ClassVar[str] = "az://container/path or az://container@account.blob.core.windows.net/path"
    extra: ClassVar[str] = "azure"
    credentials: ClassVar[str] = (
        "AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT_NAME with a key or a token, az login, or the machine's identity"
    )
    proves: ClassVar[frozenset[str]] = frozenset({"md5"})
    loggers: ClassVar[tuple[str, ...]] = ("adlfs", "azure", "fsspec", "msal")

    @classmethod
    def names_container(cls, authority: str) -> bool:
        """The account may stand behind the container."""
        return _HOST.fullmatch(authority) is not None

    @property
    def root(self) -> str:
        """Container and prefix."""
        authority, slash, path = self.rest.partition("/")
        return f"{authority.partition('@')[0]}{slash}{path}"

    @property
    def account(self) -> str:
        """Of the URL, else of the environment; empty where neither says it."""
        if match := _HOST.fullmatch(self.rest.partition("/")[0]):
            return match["account"]
        match = _ACCOUNT.search(os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
        return match[1] if match else os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")

    def library(self) -> Any:
        """Import adlfs."""
        try:
            import adlfs
        except ImportError:
            raise MissingDependencyError("adlfs", "azure") from None
        return adlfs

    def filesystem(self) -> Any:
        """Return adlfs's."""
        named = {"account_name": self.account} if "@" in self.rest.partition("/")[0] else {}
        return self.library().AzureBlobFileSystem(skip_instance_cache=True, use_listings_cache=False, **named)

    def remote_file(self, name: str, info: Mapping[str, Any]) -> RemoteFile:
        """The MD5 is there for what was put in one request."""
        settings = info.get("content_settings") or {}
        digest = bytes(settings.get("content_md5") or b"").hex()
        return RemoteFile(name, int(info["size"]), str(info.get("etag", "")), {"md5": digest} if digest else {})

    def serving_uri(self, folder: str) -> str:
        """The blob's HTTPS form, the only one of Azure's that KServe takes; it needs the account."""
        container, _, path = self.root.partition("/")
        return f"https://{self.account}.blob.core.windows.net/{container}/{path}/{folder}" if self.account else ""
