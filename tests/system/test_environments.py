import subprocess
from importlib import metadata

import pytest

from mopt.errors import MissingEnvironmentError, UserError
from mopt.system import environments
from mopt.system.environments import (
    environment_names,
    find_environment,
    install_environment,
    interpreter_of,
    load_environment,
    versions_in,
)


@pytest.mark.parametrize("name", environment_names())
def test_each_list_is_whole(name):
    spec = load_environment(name)
    assert spec.about
    assert spec.requirements
    assert spec.python == "3.11"
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in spec.constraints}
    assert all("==" in line and "@" not in line for line in spec.constraints)
    for requirement in (*spec.requirements, *spec.without_dependencies):
        library = requirement.partition("==")[0].partition("[")[0].partition("<")[0].partition(">")[0]
        assert library.lower().replace("_", "-") in pinned, f"the list has no version of {requirement}"


@pytest.fixture
def lists(tmp_path, monkeypatch):
    folder = tmp_path / "lists"
    folder.mkdir()
    monkeypatch.setattr(environments, "_FOLDER", folder)
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "tools"))
    load_environment.cache_clear()
    yield folder
    load_environment.cache_clear()


def test_another_python_takes_the_requirements_alone(lists):
    (lists / "a.txt").write_text("# about: a\n# python: 2.7\n# requirements: six\nsix==1.16.0\n")
    assert load_environment("a").constraints == ()


def test_another_list_is_another_environment(lists):
    (lists / "a.txt").write_text("# about: a\n# python: 3.11\n# requirements: six\nsix==1.16.0\n")
    first = load_environment("a").folder
    load_environment.cache_clear()
    (lists / "a.txt").write_text("# about: a\n# python: 3.11\n# requirements: six\nsix==1.17.0\n")
    assert load_environment("a").folder != first


@pytest.mark.slow
def test_it_is_made_once_and_has_what_its_list_says(lists):
    (lists / "a.txt").write_text("# about: a\n# python: 3.11\n# requirements: six\n# removed: wheel\nsix==1.16.0\n")
    assert find_environment("a") is None
    environment = install_environment("a")
    assert find_environment("a") == environment == install_environment("a")
    assert environment.version("six") == "1.16.0"
    assert environment.version("sixteen") == ""
    shown = subprocess.run([environment.python, "-c", "import six; print(six.__version__)"], capture_output=True, text=True)
    assert shown.stdout.strip() == "1.16.0"
    assert (environment.packages / "six.py").is_file()


@pytest.mark.slow
def test_what_pip_cannot_install_is_told_and_is_not_there(lists):
    (lists / "a.txt").write_text("# about: a\n# python: 3.11\n# requirements: six==999\nsix==999\n")
    with pytest.raises(UserError, match=r"a cannot be installed: .*six==999"):
        install_environment("a")
    assert find_environment("a") is None


def test_a_program_that_it_needs_must_be_there(lists, tmp_path):
    (lists / "a.txt").write_text("# about: a\n# python: 3.11\n# requirements: six\n# needs: no-such-program\nsix==1.16.0\n")
    with pytest.raises(UserError, match="a needs no-such-program"):
        install_environment("a")
    assert not (tmp_path / "tools").exists()


def test_without_an_environment_it_is_this_python_and_its_versions():
    assert interpreter_of("") is None
    assert versions_in("", ("numpy", "no-such-thing")) == {"numpy": metadata.version("numpy"), "no-such-thing": ""}


def test_an_environment_that_is_not_installed_says_how_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path))
    assert versions_in("tensorflow", ("tensorflow-cpu",)) == {"tensorflow-cpu": ""}
    with pytest.raises(MissingEnvironmentError) as caught:
        interpreter_of("tensorflow")
    assert caught.value.hint == "mopt tools install tensorflow"


def test_an_environments_python_and_versions_are_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path))
    folder = load_environment("tensorflow").folder
    folder.mkdir()
    (folder / "installed.txt").write_text("numpy==1.26.4\ntensorflow_cpu==2.19.0\n")
    assert interpreter_of("tensorflow") == folder / "bin" / "python"
    assert versions_in("tensorflow", ("tensorflow-cpu", "onnx")) == {"tensorflow-cpu": "2.19.0", "onnx": ""}
