import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.search.survivors import measure_survivors
from mopt.search.trial import REFERENCE


class Session:
    def __init__(self, ends=False):
        self.lost = False
        self.ends = ends
        self.closed = False

    def close(self):
        self.closed = True


def measuring(opened):
    for name, session in opened.items():
        if session.ends:
            session.lost = True
            raise CandidateRejectedError(Rejection.HUNG, f"{name} hangs")
    return sorted(opened)


def test_those_that_are_lost_are_taken_out_one_after_the_other():
    opened = {REFERENCE: Session(), "a": Session(ends=True), "b": Session(), "c": Session(ends=True)}
    lost_sessions = opened["a"], opened["c"]
    measured, lost = measure_survivors(opened, lambda: measuring(opened))
    assert measured == ["b", REFERENCE]
    assert {name: error.message for name, error in lost.items()} == {"a": "a hangs", "c": "c hangs"}
    assert all(session.closed for session in lost_sessions)


def test_without_the_reference_nothing_can_be_compared():
    opened = {REFERENCE: Session(ends=True), "a": Session()}
    with pytest.raises(CandidateRejectedError, match="reference hangs"):
        measure_survivors(opened, lambda: measuring(opened))


def test_an_error_that_is_nobodys_is_raised():
    def fail():
        raise CandidateRejectedError(Rejection.FAILED, "no sample")

    with pytest.raises(CandidateRejectedError, match="no sample"):
        measure_survivors({REFERENCE: Session()}, fail)
