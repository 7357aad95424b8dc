"""What every scheme of a URL keeps to, checked without naming one."""

import dataclasses
import importlib
import inspect
import sys
from pathlib import Path

import pytest

from mopt.errors import MissingDependencyError
from mopt.storage._base import Storage, is_url, storage_of
from mopt.storage._refusals import answered_by
from mopt.system import plugins

NAMES = plugins.names("storage")
ROOT = Path(__file__).parents[2]
EXAMPLES = ("{}://org/folder/file", "{}:/org/folder/file")
"""One of these is a URL of every scheme."""


def kind(name):
    loaded = plugins.load("storage", name)
    assert issubclass(loaded, Storage)
    return loaded


@pytest.mark.parametrize("name", NAMES)
def test_a_scheme_is_one_documented_class_with_a_test_file_of_its_own(name):
    module = importlib.import_module(f"mopt.storage.{name}")
    assert len(module.__all__) == 1
    assert (module.__doc__ or "").strip().endswith(".")
    assert inspect.getdoc(kind(name))
    assert (Path(__file__).parent / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_a_url_and_nothing_else_and_so_no_credentials(name):
    assert [field.name for field in dataclasses.fields(kind(name))] == ["url"]
    assert kind(name).__dataclass_params__.frozen


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_takes_where_its_credentials_are_and_what_to_install(name):
    storage = kind(name)
    assert all(is_url(word) for word in storage.takes.replace(",", " ").replace(";", " ").split() if ":/" in word)
    assert f"{name}:/" in storage.takes
    assert storage.credentials
    assert f"\n{storage.extra} = [" in (ROOT / "pyproject.toml").read_text()
    assert f"`{name}:" in (ROOT / "docs" / "guides" / "remote-models.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_its_library_is_asked_for_when_it_is_used_and_not_before(name, monkeypatch):
    library = {"hub": "huggingface_hub", "gcs": "gcsfs", "azure": "adlfs", "s3": "s3fs", "mlflow": "mlflow"}
    extra = kind(name).extra
    monkeypatch.setitem(sys.modules, library.get(extra, extra), None)
    storage = storage_of(EXAMPLES[name in ("models", "runs")].format(name))
    with pytest.raises(MissingDependencyError) as missing, answered_by(storage, "read"):
        pytest.fail("it is not installed")
    assert missing.value.hint == f"pip install 'mopt[{extra}]'"
