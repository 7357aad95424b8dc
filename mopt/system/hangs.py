"""What becomes of a child that does not answer: it is told, tried once more in a fresh process, and recorded.

Children are asked deep inside a search, far from whoever shows progress and writes the record. So a workflow opens
:func:`recording` around its work, and everything below reports to it.
"""

from __future__ import annotations

__all__ = ["about", "named", "recorded", "recording", "retry_hung", "warn"]

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

from mopt.errors import CandidateRejectedError, Rejection
from mopt.progress import Progress

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class _Record:
    progress: Progress
    warnings: list[str]


_RECORD: contextvars.ContextVar[_Record | None] = contextvars.ContextVar("record", default=None)
_SUBJECT: contextvars.ContextVar[str] = contextvars.ContextVar("subject", default="")


@contextlib.contextmanager
def recording(progress: Progress) -> Iterator[None]:
    """Tell on ``progress`` what hangs within the block, and collect it for :func:`recorded`."""
    token = _RECORD.set(_Record(progress, []))
    try:
        yield
    finally:
        _RECORD.reset(token)


@contextlib.contextmanager
def about(subject: str) -> Iterator[None]:
    """Name what the children within the block work for, such as a candidate."""
    token = _SUBJECT.set(subject)
    try:
        yield
    finally:
        _SUBJECT.reset(token)


def recorded() -> tuple[str, ...]:
    """Return what was lost or survived since the outer :func:`recording` began."""
    record = _RECORD.get()
    return tuple(record.warnings) if record is not None else ()


def named(otherwise: str) -> str:
    """Return what children work for at the moment; ``otherwise`` where nobody has said."""
    return _SUBJECT.get() or otherwise


def warn(text: str) -> None:
    """Tell it, and keep it for the record."""
    _tell(text)
    if (record := _RECORD.get()) is not None and text not in record.warnings:
        record.warnings.append(text)


def retry_hung(what: str, attempt: Callable[[], _Result], again: Callable[[], _Result] | None) -> _Result:
    """Ask a child, and where it hangs once more, in a fresh process.

    Args:
        what: It works for, as people know it.
        attempt: Asks it.
        again: Asks a fresh one; None when one has been lost already.

    Raises:
        CandidateRejectedError: What ``attempt`` raises when that is no hang, else what ``again`` raises.
    """
    try:
        return attempt()
    except CandidateRejectedError as error:
        if error.rejection is not Rejection.HUNG:
            raise
        first = error
    if again is None:
        warn(f"{what}: hung in a second process as well and is lost, {first.message}")
        raise first
    _tell(f"{what}: {first.message}, trying once more in a fresh process")
    try:
        result = again()
    except CandidateRejectedError as error:
        how = "hung" if error.rejection is Rejection.HUNG else "failed"
        warn(f"{what}: hung, {how} in a second process as well, and is lost: {error.message}")
        raise
    warn(f"{what}: hung once, {first.message}; a fresh process answered")
    return result


def _tell(text: str) -> None:
    if (record := _RECORD.get()) is not None:
        record.progress.note(text)
