import pytest

from tests.small import digits


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("small"))
