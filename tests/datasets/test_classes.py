import pytest

from mopt.datasets.classes import number_labels
from mopt.errors import UserError

MOODS = ("NEGATIVE", "POSITIVE")


@pytest.mark.parametrize(
    ("labels", "names", "classes", "expected"),
    [
        (["positive", "negative"], (), MOODS, [1, 0]),
        ([0, 1, 1], ("cat", "dog"), ("Dog", "bird", "cat"), [2, 0, 0]),
        (["great_white shark", "tench"], (), ("tench, Tinca tinca", "great white shark, white shark"), [1, 0]),
        ([1, 0], (), MOODS, [1, 0]),
        ([0.5, 1.5], (), MOODS, [0.5, 1.5]),
        (["a", "b"], (), (), ["a", "b"]),
        (None, (), MOODS, None),
    ],
    ids=["text", "folders", "synonyms", "numbers", "scores", "unknown", "unlabelled"],
)
def test_labels_are_numbered_as_the_model_does(labels, names, classes, expected) -> None:
    numbered, said = number_labels(labels, names, classes, asked=False)
    assert numbered == expected
    assert bool(said) == (numbered != labels)


def test_the_order_of_the_folders_may_be_the_models_already() -> None:
    assert number_labels([0, 1], ("negative", "positive"), MOODS, asked=False) == ([0, 1], "")


def test_a_label_that_is_no_class_leaves_all_as_they_are_unless_the_user_named_the_classes() -> None:
    labels, said = number_labels(["positive", "neutral"], (), MOODS, asked=False)
    assert (labels, said) == (
        ["positive", "neutral"],
        "the labels stay as they are: neutral is none of the model's classes NEGATIVE, POSITIVE",
    )
    with pytest.raises(UserError, match="the label neutral is none of the classes NEGATIVE, POSITIVE"):
        number_labels(["positive", "neutral"], (), MOODS, asked=True)


def test_a_name_of_two_classes_is_one_of_neither() -> None:
    cranes = ("crane", "crane, bird", "crane, lifting device")
    assert number_labels(["bird", "crane"], (), cranes, asked=False)[0] == [1, 0]
    assert number_labels(["crane"], (), cranes[1:], asked=False)[0] == ["crane"]
