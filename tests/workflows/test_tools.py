import pytest

from mopt.errors import UserError
from mopt.system import environments
from mopt.workflows.tools import install_tools, list_tools, remove_tools

LIST = "# about: nothing but Python\n# python: 3.11\n# requirements: \n"


@pytest.fixture(autouse=True)
def tools(tmp_path, monkeypatch):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "plain.txt").write_text(LIST)
    (lists / "needy.txt").write_text(LIST + "# needs: no-such-program\n")
    monkeypatch.setattr(environments, "_FOLDER", lists)
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "tools"))
    environments.load_environment.cache_clear()
    yield tmp_path / "tools"
    environments.load_environment.cache_clear()


def test_what_is_missing_is_told():
    needy, plain = list_tools()
    assert (plain["install"], plain["missing"], plain["about"]) == ("mopt tools install plain", "", "nothing but Python")
    assert needy["missing"] == "no-such-program on the PATH"


@pytest.mark.slow
def test_installed_and_removed(tools, monkeypatch):
    monkeypatch.setattr(environments, "_run", lambda command, spec: _venv(command, spec))
    (environment,) = install_tools(["plain"])
    assert environment.folder.is_relative_to(tools)
    assert list_tools()[1]["folder"] == str(environment.folder)
    assert remove_tools(["plain"]) == [environment.folder]
    assert not list(tools.glob("plain-py*"))
    assert list_tools()[1]["folder"] == ""


def _venv(command, spec):
    (spec.folder / "bin").mkdir(parents=True, exist_ok=True)
    return ""


def test_a_typo_installs_nothing(tools):
    with pytest.raises(UserError, match="unknown environment: plian"):
        install_tools(["plain", "plian"])
    assert not tools.exists()
    with pytest.raises(UserError, match="no-such-program, which is not on the PATH"):
        install_tools(["needy"])
