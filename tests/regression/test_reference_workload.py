import numpy as np

from mopt.regression.reference_workload import reference_workload


def test_it_is_made_once_and_is_the_same_work_at_each_batch_size():
    first, second = reference_workload(1, (1, 8)), reference_workload(1, (1,))
    assert first.feeds.keys() == {1, 8}
    for name, value in first.feeds[1][0].items():
        np.testing.assert_array_equal(value, first.feeds[8][0][name])
        np.testing.assert_array_equal(value, second.feeds[1][0][name])
    with first.open() as session, second.open() as again:
        outputs = session.run_finite(first.feeds[1][0])
        assert {name: value.shape for name, value in outputs.items()} == {"y": (32, 384), "z": (1, 32, 32, 32)}
        np.testing.assert_array_equal(outputs["y"], again.run(first.feeds[1][0])["y"])
