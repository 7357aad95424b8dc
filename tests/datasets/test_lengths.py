from mopt.datasets.lengths import differing_axes
from mopt.model.signature import Signature, TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=("batch", 100, 6))
MASK = TensorSpec(name="mask", dtype="float32", shape=("batch", 100))
OTHER = TensorSpec(name="z", dtype="float32", shape=("batch", 50, "width"))
SIGNATURE = Signature(inputs=(X, MASK, OTHER), outputs=(), batch_axes={"x": 0, "mask": 0, "z": 0})


def sample(x: tuple[int, ...], mask: tuple[int, ...], z: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"x": x, "mask": mask, "z": z}


def test_axes_of_one_length_share_a_name() -> None:
    samples = [sample((1, 80, 6), (1, 80), (1, 50, 7)), sample((1, 100, 6), (1, 100), (1, 70, 8))]
    assert differing_axes(samples, SIGNATURE) == {"x": {1: "x_1"}, "mask": {1: "x_1"}, "z": {1: "z_1"}}


def test_axes_that_fit_are_no_matter() -> None:
    assert differing_axes([sample((1, 100, 6), (1, 100), (1, 50, 3))], SIGNATURE) == {}


def test_another_number_of_axes_is_no_length() -> None:
    assert differing_axes([sample((1, 80), (1, 80), (1, 50, 3))], SIGNATURE) == {}
    assert differing_axes([sample((2, 80, 6), (2, 80), (2, 50, 3))], SIGNATURE) == {}


def test_all_samples_may_have_one_length_that_is_not_the_models() -> None:
    assert differing_axes([sample((1, 100, 8), (1, 100), (1, 50, 3))] * 2, SIGNATURE) == {"x": {2: "x_2"}}
