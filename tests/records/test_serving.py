import pytest

from mopt.records.serving import InstanceGroup, ServingProfile
from tests.manifests import profile
from tests.workflows.test_size import profile as serving_profile


def test_an_instance_group_is_found_by_its_shape_and_survives_json():
    entries = profile(4.2, 1.0).batches
    groups = tuple(InstanceGroup(instances=n, threads=4 // n, solo=entries, concurrent=entries) for n in (1, 2, 4))
    made = serving_profile().model_copy(update={"instance_groups": groups})
    assert made.instance_group(2, 2) is groups[1]
    with pytest.raises(StopIteration):
        made.instance_group(2, 4)
    again = ServingProfile.model_validate_json(made.model_dump_json())
    assert again == made
    assert list(again.memory) == [1, 2, 4, 8]
