import pytest

from mopt.artifacts.serving._names import model_name, service_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet50", "resnet50"), ("../../etc", "etc"), ("a b/c:é", "a_b_c"), ("..", "model"), ("", "model")],
)
def test_a_name_is_a_plain_folder_and_a_part_of_a_url(name, expected):
    assert model_name(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("ResNet-50 v2", "resnet-50-v2"), ("../../etc", "etc"), ("名", "model"), ("a" * 99, "a" * 40)]
)
def test_a_service_is_called_what_every_system_takes(name, expected):
    assert service_name(name) == expected
