"""Amazon S3, and every store that speaks its protocol, through s3fs."""

from __future__ import annotations

__all__ = ["S3"]

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from mopt.errors import MissingDependencyError
from mopt.storage._base import RemoteFile
from mopt.storage._object_store import ObjectStore


@dataclasses.dataclass(frozen=True)
class S3(ObjectStore):
    """Objects of a bucket: ``s3://bucket/prefix``. Another endpoint than Amazon's is named by ``AWS_ENDPOINT_URL``."""

    takes: ClassVar[str] = "s3://bucket/path"
    extra: ClassVar[str] = "s3"
    credentials: ClassVar[str] = "AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws, or the role of the machine, as for aws s3"
    loggers: ClassVar[tuple[str, ...]] = ("s3fs", "aiobotocore", "botocore", "fsspec")

    def library(self) -> Any:
        """Import s3fs."""
        try:
            import s3fs
        except ImportError:
            raise MissingDependencyError("s3fs", "s3") from None
        return s3fs

    def filesystem(self) -> Any:
        """Return s3fs's."""
        return self.library().S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def remote_file(self, name: str, info: Mapping[str, Any]) -> RemoteFile:
        """The ETag is the MD5 of what was put in one part, unless it is encrypted with a key of one's own."""
        etag = str(info.get("ETag", "")).strip('"')
        digests = {"md5": etag} if re.fullmatch("[0-9a-f]{32}", etag) else {}
        return RemoteFile(name, int(info["size"]), etag, digests)

    def serving_uri(self, folder: str) -> str:
        """The same URL; the service account that KServe is given has the credentials."""
        return f"{self.url.rstrip('/')}/{folder}"
