"""What a library raised, in words that no secret can be in.

A library's own text may hold a signed URL, a header or a connection string. So nothing of it is repeated: what is told is the
name of the exception's class, the HTTP status, and the code of the error where it is one plain word.
"""

from __future__ import annotations

__all__ = ["answered_by", "reason_of"]

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mopt.errors import MoptError, UserError
from mopt.storage._base import Storage

_CODE = re.compile(r"[A-Z][A-Za-z_]{2,63}")
"""An error code of S3, Azure, Google or MLflow: ``NoSuchBucket``, ``RESOURCE_DOES_NOT_EXIST``. A secret has digits in it."""
_DEEPEST = 6
_DENIED = (401, 403)
_MISSING = 404
_NOT_THERE = re.compile("NOT_EXIST|NOT_FOUND|NotFound|NoSuch")
_NOT_ALLOWED = re.compile("PERMISSION|Denied|Forbidden|Unauthorized")
_WORDS = (
    (re.compile("credential|authentication|token", re.I), "it found no credentials that it could use"),
    (re.compile("timeout", re.I), "the server did not answer in time"),
    (re.compile("connect|resolve|dns", re.I), "the server cannot be reached"),
)
"""What the name of an exception's class says."""


@contextmanager
def answered_by(storage: Storage, verb: str) -> Iterator[None]:
    """Import a library and let it work, silent; what it raises becomes one line without a word of its own.

    Args:
        storage: Whose library it is.
        verb: What was to be done to the URL: ``read`` or ``written``.

    Raises:
        UserError: For everything that the library raises.
        MissingDependencyError: When it is not installed.
    """
    storage.library()  # what it sets up while it is imported would undo the silence
    try:
        with _silent(storage.loggers):
            yield
    except MoptError:
        raise
    except Exception as error:  # noqa: BLE001, whatever a library makes of an answer; chained, its text would be in a traceback
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError("the disk is full", "free some space, or point $MOPT_CACHE to another disk") from None
        raise UserError(f"{storage.url} cannot be {verb}: {reason_of(error)}", f"credentials: {storage.credentials}") from None


def reason_of(error: BaseException) -> str:
    """Return why a library failed, as far as it can be told without its text."""
    chain = list(_chain(error))
    status = next((status for link in chain if (status := _status(link))), None)
    code = next((code for link in chain if (code := _error_code(link))), "")
    names = dict.fromkeys(type(link).__name__ for link in (chain[0], chain[-1]))
    facts = ", ".join(filter(None, [*names, f"HTTP {status}" if status else "", code]))
    return f"{_sentence(chain, status, code)} ({facts})"


def _sentence(chain: list[BaseException], status: int | None, code: str) -> str:
    if status == _MISSING or isinstance(chain[0], FileNotFoundError) or _NOT_THERE.search(code):
        return "nothing is there"
    if status in _DENIED or isinstance(chain[0], PermissionError) or _NOT_ALLOWED.search(code):
        return "access is denied"
    for link in reversed(chain):
        for pattern, words in _WORDS:
            if pattern.search(type(link).__name__):
                return words
    return "its library failed"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_DEEPEST):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    values: list[Any] = [getattr(error, name, None) for name in ("status_code", "status", "code")]
    values.append(getattr(response, "status_code", None))
    if isinstance(response, dict):
        values.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return next((value for value in values if isinstance(value, int) and 400 <= value < 600), None)


def _error_code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    values: list[Any] = [getattr(error, "error_code", None)]
    if isinstance(response, dict):
        values.append(response.get("Error", {}).get("Code"))
    texts = [getattr(value, "value", value) for value in values]  # Azure's are members of an enumeration
    return next((text for text in texts if isinstance(text, str) and _CODE.fullmatch(text)), "")


@contextmanager
def _silent(names: tuple[str, ...]) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
