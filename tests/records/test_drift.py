from mopt.records.drift import DriftState, FeatureState, Tally
from tests.sketches.test_exposition import report


def test_what_has_drifted_is_apart_from_what_has_not():
    assert [feature.name for feature in report().drifted] == ["value[3]"]
    assert report(found=False).drifted == ()


def test_a_tally_after_an_earlier_one_has_what_came_since():
    early = Tally(bins=(1, 2), finite=2, total=5.0, beyond=1, categories={"0": 2})
    late = Tally(bins=(4, 2), finite=5, total=11.0, beyond=1, categories={"0": 3, "other": 2})
    since = late.since(early)
    assert since == Tally(bins=(3, 0), finite=3, total=6.0, beyond=0, categories={"0": 1, "other": 2})
    assert (since.count, since.mean, Tally(bins=(0,)).mean) == (3, 2.0, 0.0)


def test_a_state_keeps_the_starts_by_their_look():
    starts = {0: Tally(bins=(0, 0)), 7: Tally(bins=(1, 0))}
    feature = FeatureState(role="input", tensor="x", name="value", tally=Tally(bins=(1, 2)), starts=starts)
    state = DriftState(
        created="", mopt_version="0", name="m", sketch="d", looks=8, requests=3, files=("f",), features=(feature,)
    )
    assert DriftState.model_validate_json(state.model_dump_json()).features[0].starts == starts
