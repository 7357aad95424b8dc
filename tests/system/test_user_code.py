import sys

import pytest

from mopt.errors import UserError
from mopt.system.user_code import guarded, is_function, load_function, source_file

CODE = """
import neighbour_of_user_code

def good(x):
    return neighbour_of_user_code.double(x)

def bad():
    return good(None)

NUMBER = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "neighbour_of_user_code.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "deep.py").write_text("def f():\n    return 7\n")
    yield tmp_path
    for name in ("neighbour_of_user_code", "user_package", "user_package.deep"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.py:f", True), ("a.b:f", True), ("a/b.py:f_2", True), ("a.npz", False), ("a:1", False), ("C:\\data", False)],
)
def test_a_function_is_told_from_a_path(text, expected):
    assert is_function(text) == expected


def test_a_path_that_is_there_is_no_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name").touch()
    assert not is_function("odd:name")


def test_a_file_finds_its_neighbours_and_the_search_path_stays(folder):
    before = list(sys.path)
    function = load_function("mine.py:good", folder)
    assert function(4) == 8
    assert sys.path == before
    assert source_file(function) == folder / "mine.py"
    assert load_function("user_package.deep:f", folder)() == 7


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("mine.py", "not a function", "package.module:function"),
        ("gone.py:f", "no such file", "file.py:function"),
        ("gone_package:f", "no module named gone_package", "install"),
        ("user_package.gone:f", r"importing user_package\.gone|no module named", ""),
        ("mine.py:goood", r"mine\.py has no function goood", "it has: bad, good"),
        ("mine.py:NUMBER", r"mine\.py has no function NUMBER", "it has: bad, good"),
    ],
)
def test_what_is_not_there_is_told(folder, text, message, hint):
    with pytest.raises(UserError, match=message) as caught:
        load_function(text, folder)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [("\n1 / 0\n", "importing broken.py raised ZeroDivisionError", 2), ("def f(:\n", "raised SyntaxError", 1)],
)
def test_what_does_not_import_names_the_line(folder, code, message, line):
    (folder / "broken.py").write_text(code)
    with pytest.raises(UserError, match=message) as caught:
        load_function("broken.py:f", folder)
    assert caught.value.hint.endswith(f"broken.py:{line}")


def test_what_code_raises_names_the_deepest_line_of_its_own_file(folder):
    bad = load_function("mine.py:bad", folder)
    with pytest.raises(UserError, match="the metric mine raised TypeError") as caught, guarded("the metric mine", bad):
        bad()
    assert caught.value.hint.endswith(f"mine.py:{CODE.splitlines().index('    return neighbour_of_user_code.double(x)') + 1}")


def test_mopts_own_errors_and_a_full_memory_pass_through():
    for error in (UserError("mine", ""), MemoryError()):
        with pytest.raises(type(error)), guarded("it"):
            raise error
