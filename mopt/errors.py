"""One class for each reaction of the caller, which is also the exit code of the command line."""

from __future__ import annotations

__all__ = [
    "CandidateRejectedError",
    "CheckFailedError",
    "CheckInconclusiveError",
    "ExitCode",
    "MissingDependencyError",
    "MissingEnvironmentError",
    "MoptError",
    "NotApplicableError",
    "Rejection",
    "UserError",
]

import enum


class ExitCode(enum.IntEnum):
    """What ``mopt`` returns to the shell."""

    OK = 0
    BUG = 1
    USAGE = 2
    CHECK_FAILED = 3
    INCONCLUSIVE = 4
    INTERRUPTED = 130


class Rejection(enum.StrEnum):
    """Why a candidate is out. The text that goes with it names the figures."""

    CRASHED = "crashed"
    HUNG = "hung"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    UNCHANGED = "unchanged"
    NOT_FINITE = "not finite"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"
    SLOWER = "slower"
    MEMORY = "memory"
    NOT_BEST = "not best"
    SKIPPED = "skipped"


class MoptError(Exception):
    """Base of everything that mopt raises on purpose.

    Args:
        message: One line that says what is wrong, with the value that is wrong in it.
        hint: One line that says what to do about it, in the words of the command line.
    """

    exit_code = ExitCode.BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[MoptError], tuple[str, ...]]:
        return type(self), (self.message, self.hint)


class UserError(MoptError):
    """The request cannot be carried out as it was made; the user can change it."""

    exit_code = ExitCode.USAGE


class MissingDependencyError(UserError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed", f"pip install 'mopt[{extra}]'")
        self.library = library
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, ...]]:
        return type(self), (self.library, self.extra)


class MissingEnvironmentError(MissingDependencyError):
    """What is needed lives in an environment of ``mopt tools``, and that is not installed."""

    def __init__(self, name: str) -> None:
        UserError.__init__(self, f"the environment {name} is not installed", f"mopt tools install {name}")
        self.library = self.extra = name

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, ...]]:
        return type(self), (self.library,)


class CheckFailedError(MoptError):
    """What was measured is not within what was asked."""

    exit_code = ExitCode.CHECK_FAILED


class CheckInconclusiveError(MoptError):
    """What was measured does not tell whether it is within what was asked."""

    exit_code = ExitCode.INCONCLUSIVE


class NotApplicableError(MoptError):
    """This pass is not for this model; the model is fine. The message is the reason that the user reads."""


class CandidateRejectedError(MoptError):
    """One candidate is out, the build goes on.

    Args:
        rejection: The class of the reason.
        message: The reason, with its figures, signal or operator names.
    """

    def __init__(self, rejection: Rejection, message: str) -> None:
        super().__init__(message)
        self.rejection = Rejection(rejection)

    def __reduce__(self) -> tuple[type[CandidateRejectedError], tuple[Rejection, str]]:
        return type(self), (self.rejection, self.message)
