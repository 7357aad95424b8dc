import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.system.hangs import about, named, recorded, recording, retry_hung, warn
from tests.hanging import Told

HUNG = CandidateRejectedError(Rejection.HUNG, "no answer within 11 s")
CRASHED = CandidateRejectedError(Rejection.CRASHED, "the process died of SIGSEGV")


def attempts(*outcomes):
    """Something that raises or returns one outcome after the other."""
    remaining = iter(outcomes)

    def attempt():
        outcome = next(remaining)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return attempt


def test_what_answers_is_asked_once_and_nothing_is_told():
    progress = Told()
    with recording(progress):
        assert retry_hung("a", attempts(1), attempts()) == 1
        assert recorded() == ()
    assert progress.lines == []


def test_a_hang_that_is_survived_is_told_and_recorded():
    progress = Told()
    with recording(progress):
        assert retry_hung("int8", attempts(HUNG), attempts(2)) == 2
        assert recorded() == ("int8: hung once, no answer within 11 s; a fresh process answered",)
    assert progress.lines[0] == "int8: no answer within 11 s, trying once more in a fresh process"


@pytest.mark.parametrize(("second", "how"), [(HUNG, "hung"), (CRASHED, "failed")])
def test_what_is_lost_is_told_recorded_and_raised(second, how):
    progress = Told()
    with recording(progress):
        with pytest.raises(CandidateRejectedError) as caught:
            retry_hung("int8", attempts(HUNG), attempts(second))
        (warning,) = recorded()
    assert caught.value is second
    assert how in warning
    assert "lost" in warning
    assert progress.lines == ["int8: no answer within 11 s, trying once more in a fresh process", warning]


def test_one_that_has_been_replaced_before_is_lost_at_once():
    with recording(Told()):
        with pytest.raises(CandidateRejectedError):
            retry_hung("int8", attempts(HUNG), None)
        assert "lost" in recorded()[0]


def test_a_crash_is_no_hang():
    with recording(Told()):
        with pytest.raises(CandidateRejectedError, match="SIGSEGV"):
            retry_hung("int8", attempts(CRASHED), attempts(1))
        assert recorded() == ()


def test_without_a_record_it_is_tried_again_all_the_same():
    assert retry_hung("a", attempts(HUNG), attempts(3)) == 3
    assert recorded() == ()


def test_a_warning_is_recorded_once_and_ends_with_its_workflow():
    progress = Told()
    with recording(progress):
        warn("two instances were lost")
        warn("two instances were lost")
        with recording(Told()):
            assert recorded() == ()
        assert recorded() == ("two instances were lost",)
    assert recorded() == ()


def test_a_subject_is_known_within_its_block():
    assert named("onnxruntime") == "onnxruntime"
    with about("int8"):
        assert named("onnxruntime") == "int8"
    assert named("onnxruntime") == "onnxruntime"
