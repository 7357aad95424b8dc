import pickle

import pytest

from mopt import errors
from mopt.errors import (
    CandidateRejectedError,
    ExitCode,
    MissingDependencyError,
    MissingEnvironmentError,
    MoptError,
    Rejection,
    UserError,
)

MADE = [
    UserError("message", "hint"),
    MissingDependencyError("numba", "sizing"),
    MissingEnvironmentError("tensorflow"),
    CandidateRejectedError(Rejection.WORSE, "it is worse"),
    *(
        getattr(errors, name)("message", "hint")
        for name in ("CheckFailedError", "CheckInconclusiveError", "NotApplicableError")
    ),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_from_a_child(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.message, again.hint, vars(again)) == (error.message, error.hint, vars(error))
    assert str(error) == error.message


def test_exit_codes_are_those_of_the_manual():
    codes = {type(error).__name__: int(error.exit_code) for error in MADE}
    assert codes["UserError"] == codes["MissingDependencyError"] == 2
    assert (codes["CheckFailedError"], codes["CheckInconclusiveError"]) == (3, 4)
    assert MoptError("a contradiction").exit_code is ExitCode.BUG


def test_a_missing_library_comes_with_the_line_that_installs_it():
    assert MissingDependencyError("numba", "sizing").hint == "pip install 'mopt[sizing]'"


def test_a_rejection_is_one_of_the_words_of_the_manifest():
    assert CandidateRejectedError("not finite", "NaN").rejection is Rejection.NOT_FINITE
    with pytest.raises(ValueError, match="ugly"):
        CandidateRejectedError("ugly", "")
