"""A language model to build from: a Hugging Face folder, an id of the hub, or a GGUF file."""

from __future__ import annotations

__all__ = ["language_source"]

import re
from pathlib import Path

from mopt.model.checkpoint import is_causal_folder
from mopt.progress import Progress
from mopt.storage._base import is_url
from mopt.storage._fetch import fetched
from mopt.system.store import Store

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GGUF = b"GGUF"


def language_source(source: str, progress: Progress | None = None, store: Store | None = None) -> Path | None:
    """Return where a causal language model is on this machine, fetched if need be; None when the source is no such model.

    What looks like ``organisation/name`` and is no path is an id of the Hugging Face hub.

    Raises:
        UserError: When it cannot be fetched.
    """
    named_on_hub = _HUB_ID.fullmatch(source) is not None and not Path(source).exists() and not Path(source).suffix
    if named_on_hub:
        source = f"hf://{source}"
    if is_url(source) and not _may_be_language(source):
        return None
    path = Path(fetched(source, progress, store))
    if is_causal_folder(path) or _is_gguf(path):
        return path
    return None


def _may_be_language(url: str) -> bool:
    """A file of another kind that is fetched later is not fetched here: its name says that it is no language model."""
    return not Path(url.partition("@")[0]).suffix or url.endswith(".gguf")


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_GGUF)) == _GGUF
    except OSError:
        return False
