"""Google Cloud Storage, through gcsfs."""

from __future__ import annotations

__all__ = ["GoogleStorage"]

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mopt.errors import MissingDependencyError
from mopt.storage._base import RemoteFile
from mopt.storage._object_store import ObjectStore


@dataclasses.dataclass(frozen=True)
class GoogleStorage(ObjectStore):
    """Objects of a bucket: ``gs://bucket/prefix``."""

    takes: ClassVar[str] = "gs://bucket/path"
    extra: ClassVar[str] = "gcs"
    credentials: ClassVar[str] = (
        "GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login, or the machine's account"
    )
    proves: ClassVar[frozenset[str]] = frozenset({"md5"})
    loggers: ClassVar[tuple[str, ...]] = ("gcsfs", "google", "fsspec")

    def library(self) -> Any:
        """Import gcsfs."""
        try:
            import gcsfs
        except ImportError:
            raise MissingDependencyError("gcsfs", "gcs") from None
        return gcsfs

    def filesystem(self) -> Any:
        """Return gcsfs's."""
        return self.library().GCSFileSystem(skip_instance_cache=True, use_listings_cache=False)

    def remote_file(self, name: str, info: Mapping[str, Any]) -> RemoteFile:
        """Each content of an object has a generation of its own; the MD5 is there unless the object was composed."""
        digests = {"md5": base64.b64decode(info["md5Hash"]).hex()} if info.get("md5Hash") else {}
        return RemoteFile(name, int(info["size"]), str(info.get("generation") or info.get("etag", "")), digests)

    def serving_uri(self, folder: str) -> str:
        """The same URL."""
        return f"{self.url.rstrip('/')}/{folder}"
