"""Measure sessions together, and go on with the others when one is lost."""

from __future__ import annotations

__all__ = ["measure_survivors"]

from collections.abc import Callable
from typing import TypeVar

from mopt.errors import CandidateRejectedError
from mopt.runtimes._base import SessionProcess
from mopt.search.trial import REFERENCE

_Measured = TypeVar("_Measured")


def measure_survivors(
    opened: dict[str, SessionProcess], measure: Callable[[], _Measured]
) -> tuple[_Measured, dict[str, CandidateRejectedError]]:
    """Call ``measure`` until no session is lost on the way.

    Args:
        opened: Sessions by name; those that crash, fail or hang twice are closed and taken out.
        measure: Measures all that are left, from the beginning.

    Returns:
        What was measured, and what became of those that were lost.

    Raises:
        CandidateRejectedError: When the reference is lost, with which all are compared, or nobody can be blamed.
    """
    lost: dict[str, CandidateRejectedError] = {}
    while True:
        try:
            return measure(), lost
        except CandidateRejectedError as error:
            gone = {name for name, session in opened.items() if session.lost}
            if not gone or REFERENCE in gone:
                raise
            for name in gone:
                opened.pop(name).close()
                lost[name] = error
