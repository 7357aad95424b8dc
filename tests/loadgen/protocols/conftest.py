import pytest

from tests import servers


@pytest.fixture(scope="module")
def server():
    with servers.Queue() as running:
        yield running
