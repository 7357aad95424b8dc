import pytest

from mopt.records.measurement import Profile
from tests.manifests import BATCHES, profile


def test_a_profile_is_read_at_the_batch_sizes_that_were_measured():
    made = profile(4.2, 2.0)
    assert [made.at(batch).batch for batch in BATCHES] == list(BATCHES)
    with pytest.raises(StopIteration):
        made.at(3)
    assert Profile.model_validate_json(made.model_dump_json()) == made
