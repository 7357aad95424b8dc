"""Programs as sources: load ``file.py:function``, and see which files it reads on the way."""

from __future__ import annotations

__all__ = ["files_read", "load_function", "module_file", "split"]

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mopt.errors import UserError

_REFERENCE = re.compile(r"(?P<module>.+):(?P<function>[A-Za-z_]\w*)")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_BUILT = (".pyc", ".pyi", ".so", ".pyd", ".pth.tar.lock")
_UNSEEN = "*.safetensors"
"""Native code opens these, out of sight of Python's audit events."""


def split(source: str) -> tuple[str, str] | None:
    """Return the module (a path or a dotted name) and the function of ``module:function``, or None."""
    match = _REFERENCE.fullmatch(source)
    if match is None:
        return None
    module, function = match["module"], match["function"]
    return (module, function) if module.endswith(".py") or _DOTTED.fullmatch(module) else None


def module_file(source: str) -> Path:
    """Return the file that the function is written in, without running any of it.

    Raises:
        UserError: When there is no such file or module.
    """
    module, _ = split(source) or (source, "")
    if module.endswith(".py"):
        if not Path(module).is_file():
            raise UserError(f"no such file: {module}", "give file.py:function, with the path of a file that exists")
        return Path(module)
    with _importable(os.getcwd()):
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UserError(f"no module named {module}", "give file.py:function, or a module that Python can import here")
    return Path(spec.origin)


def load_function(source: str) -> Callable[..., Any]:
    """Import the module and return the function. Call it in a child process only.

    Raises:
        UserError: When the module raises while it is imported, or has no such function.
    """
    module, name = split(source) or (source, "")
    path = module_file(source)
    sys.path.insert(0, str(path.parent.resolve()) if module.endswith(".py") else os.getcwd())
    try:
        loaded = _load_file(path) if module.endswith(".py") else importlib.import_module(module)
    except Exception as error:  # user code: importing it runs it
        raise UserError(f"{module} raised {type(error).__name__} while it was imported: {error}", "run it by hand") from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise UserError(f"{module} has no function {name}", "give file.py:function with the name of a function in it")
    source_function: Callable[..., Any] = function
    return source_function


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


@contextlib.contextmanager
def files_read() -> Iterator[set[str]]:
    """Collect the files that are read in the block: data files that Python opens, and modules that it imports.

    The standard library and the code of installed packages are left out, for their versions are known. The audit hook
    stays for the life of the process: use it in a child process.
    """
    opened: set[str] = set()
    active = True
    loaded_before = set(sys.modules)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            opened.add(os.path.abspath(os.fsdecode(arguments[0])))

    sys.addaudithook(note)
    read: set[str] = set()
    try:
        yield read
    finally:
        active = False
    modules = {getattr(sys.modules.get(name), "__file__", None) for name in set(sys.modules) - loaded_before}
    candidates = {path for path in opened if not path.endswith(_BUILT)} | {os.path.abspath(path) for path in modules if path}
    user_files = {path for path in candidates if os.path.isfile(path) and not _is_installed_code(path)}
    for folder in {os.path.dirname(path) for path in user_files}:
        user_files |= {str(path) for path in Path(folder).glob(_UNSEEN)}
    read.update(user_files)


def _is_installed_code(path: str) -> bool:
    paths = sysconfig.get_paths()
    inside = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    code = path.endswith((".py", *_BUILT)) or ".dist-info" in path or ".egg-info" in path
    system = path.startswith(("/proc/", "/sys/", "/dev/", "/etc/", "/usr/share/", "/usr/lib/"))
    return system or (code and any(path.startswith(folder + os.sep) for folder in inside))
