import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.exporters._python_source import module_file, split


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("m.py:f", ("m.py", "f")),
        ("a/b c/m.py:f2", ("a/b c/m.py", "f2")),
        ("C:/a/m.py:f", ("C:/a/m.py", "f")),
        ("package.module:f", ("package.module", "f")),
        ("m.py", None),
        ("m.onnx:f", ("m.onnx", "f")),
        ("a/m:f", None),
        ("m.py:2f", None),
        ("m.py:", None),
    ],
)
def test_a_function_is_told_from_a_path(source: str, parts: tuple[str, str] | None) -> None:
    assert split(source) == parts


def test_the_file_of_a_function_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text("raise SystemExit('it was run')")
    assert module_file("nets.py:f") == Path("nets.py")
    assert module_file("nets:f") == tmp_path / "nets.py"
    for source, message in (("gone.py:f", r"no such file: gone\.py"), ("gone.deep:f", r"no module named gone\.deep")):
        with pytest.raises(UserError, match=message) as caught:
            module_file(source)
        assert caught.value.hint


CHILD = """
import json, sys
from mopt.errors import UserError
from mopt.exporters._python_source import files_read, load_function
try:
    with files_read() as read:
        value = load_function(sys.argv[1])()
    print(json.dumps([value, sorted(read)]))
except UserError as error:
    print(json.dumps([error.message, error.hint]))
"""


def load(source: str, folder: Path) -> list:
    """Load and call a function in a process of its own, for that is where such code may run."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", CHILD, source]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_what_a_program_reads_is_seen_and_what_is_installed_is_not(tmp_path: Path) -> None:
    for name, text in (("weights.bin", "w"), ("native.safetensors", "s"), ("unread.txt", "u"), ("other.py", "SCALE = 3")):
        (tmp_path / name).write_text(text)
    (tmp_path / "net.py").write_text(
        "import colorsys, numpy\nimport other\ndef f():\n    return open('weights.bin').read() + str(other.SCALE)\n"
    )
    value, read = load("net.py:f", tmp_path)
    assert value == "w3"
    assert {Path(path).name for path in read} == {"weights.bin", "native.safetensors", "net.py", "other.py"}


def test_a_module_that_does_not_import_or_has_no_such_function_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("f = 3\n")
    assert load("net.py:f", tmp_path)[0] == "net.py has no function f"
    (tmp_path / "net.py").write_text("1 / 0\n")
    assert load("net:f", tmp_path)[0] == "net raised ZeroDivisionError while it was imported: division by zero"
