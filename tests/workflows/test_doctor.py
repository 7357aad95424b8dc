from importlib import metadata

import pytest

from mopt.workflows.doctor import examine

REQUIRES = [
    "numpy>=2.1",
    "pydantic>=99",
    "never-there; python_version < '3'",
    "numba>=0.61; extra == 'sizing'",
    "numba>=0.61; extra == 'bench'",
    "nobody_has[this]>=1; (sys_platform != 'none') and extra == 'bench'",
    "elsewhere; sys_platform == 'none' and extra == 'bench'",
    "mopt[sizing]; extra == 'bench'",
    "numba>=0.61; extra == 'all'",
]


@pytest.fixture
def libraries(monkeypatch):
    class Metadata:
        def get_all(self, name):
            return ["sizing", "bench", "all"]

    versions = {"numpy": "2.4.6", "pydantic": "2.14.3", "numba": "0.68.1rc1"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(metadata, "metadata", lambda name: Metadata())
    monkeypatch.setattr(metadata, "version", version)
    return {(row["extra"], row["library"]): row for row in examine()["libraries"]}


def test_each_library_is_listed_with_every_extra_that_brings_it_here(libraries):
    assert list(libraries) == [
        ("", "numpy"), ("", "pydantic"), ("bench", "nobody_has"), ("bench", "numba"), ("sizing", "numba"),
    ]  # fmt: skip


def test_what_is_missing_or_too_old_comes_with_the_line_that_installs_it(libraries):
    assert libraries["", "numpy"]["install"] == ""
    assert libraries["sizing", "numba"] == {"extra": "sizing", "library": "numba", "version": "0.68.1rc1", "install": ""}
    assert libraries["", "pydantic"]["install"] == "pip install mopt"
    assert libraries["bench", "nobody_has"] == {
        "extra": "bench", "library": "nobody_has", "version": "", "install": "pip install 'mopt[bench]'",
    }  # fmt: skip
