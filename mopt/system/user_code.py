"""Functions that the user wrote, as ``file.py:function`` or ``package.module:function``, and the mistakes in them."""

from __future__ import annotations

__all__ = ["guarded", "is_function", "load_function", "source_file"]

import contextlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mopt.errors import MoptError, UserError

_FUNCTION = re.compile(r"(?P<home>.+):(?P<name>[A-Za-z_]\w*)")


def is_function(text: str) -> bool:
    """Whether ``text`` is written like a function rather than like a path."""
    return _FUNCTION.fullmatch(text) is not None and not Path(text).exists()


def load_function(text: str, base: Path) -> Callable[..., Any]:
    """Import a function; a relative file, or a module that is not installed, is looked for in ``base``.

    Raises:
        UserError: When there is no such file, module or function, or when importing it raises.
    """
    match = _FUNCTION.fullmatch(text)
    if match is None:
        raise UserError(f"not a function: {text}", "write file.py:function or package.module:function")
    home, name = match["home"], match["name"]
    module = _from_file(base / home) if home.endswith(".py") else _from_module(home, base)
    attribute = getattr(module, name, None)
    if not callable(attribute):
        functions = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise UserError(f"{home} has no function {name}", f"it has: {', '.join(functions) or 'none'}")
    function: Callable[..., Any] = attribute
    return function


def source_file(function: Callable[..., Any]) -> Path | None:
    """Return the file that a function was written in, as far as Python tells."""
    name = getattr(sys.modules.get(function.__module__), "__file__", None) or function.__globals__.get("__file__")
    return Path(name) if name else None


@contextlib.contextmanager
def guarded(what: str, function: Callable[..., Any] | None = None) -> Iterator[None]:
    """Turn whatever the user's code raises inside the block into one line that names the place.

    Args:
        what: What it is to the user, such as ``the metric score.py:f1``.
        function: The function that runs; the deepest line in its own file is named, else where it was raised.
    """
    try:
        yield
    except (MoptError, MemoryError):
        raise
    except Exception as error:  # user code: whatever it raises is the user's to mend
        user_file = source_file(function) if function is not None else None
        reason = " ".join(str(error).split())[:300]
        where = _place(error, user_file)
        raise UserError(
            f"{what} raised {type(error).__name__}: {reason}" if reason else f"{what} raised {type(error).__name__}",
            f"it was raised at {where}",
        ) from error


def _place(error: Exception, user_file: Path | None) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    mine = [frame for frame in frames if user_file is not None and Path(frame.filename) == user_file]
    frame = (mine or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"no such file: {path}", "write file.py:function with the path of an existing file")
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(f"_mopt_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickle and dataclasses look it up there
    with _importable(path.parent), guarded(f"importing {path.name}"):
        spec.loader.exec_module(module)
    return module


def _from_module(name: str, base: Path) -> Any:
    with _importable(base.resolve()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                raise UserError(f"no module named {name}", "write file.py:function, or install the package") from None
            raise UserError(f"importing {name}: {error}", "install what it imports") from error
        except Exception as error:  # user code
            raise UserError(
                f"importing {name} raised {type(error).__name__}: {' '.join(str(error).split())[:300]}",
                f"it was raised at {_place(error, None)}",
            ) from error


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the user's file import its neighbours; what was imported stays, the search path does not."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
