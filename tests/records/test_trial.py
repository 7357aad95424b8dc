from mopt.errors import Rejection
from mopt.records.trial import PassRecord, TrialRecord
from tests.manifests import quality, trial, trials


def step(name, **fields):
    return PassRecord(name=name, fields=fields, modified=True, cached=False, seconds=0.0)


def test_the_operators_in_float_are_those_of_the_last_pass_that_can_leave_some():
    bare = trial("a", None, None, None, passes=(step("fold_constants"),))
    assert bare.float_nodes is None
    assert bare.model_copy(update={"passes": (step("q", float_nodes=[]), step("after"))}).float_nodes == ()
    two = (step("q", float_nodes=["a"]), step("q", float_nodes=["b", "c"]))
    assert bare.model_copy(update={"passes": two}).float_nodes == ("b", "c")


def test_every_end_of_a_trial_survives_json():
    for made in (*trials(), trial("a", 1.0, quality(0, 0), None)):
        assert TrialRecord.model_validate_json(made.model_dump_json()) == made
    assert {made.outcome.rejection for made in trials() if made.outcome} >= {Rejection.WORSE, Rejection.MEMORY}
