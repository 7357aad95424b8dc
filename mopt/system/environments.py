"""Virtual environments of their own for programs whose dependencies do not go with mopt's: servers and converters.

Each is described by a file of pip requirements in ``mopt/system/environments``: versions that were tested together. It is made
under the cache, and only child processes use it.
"""

from __future__ import annotations

__all__ = [
    "Environment",
    "EnvironmentSpec",
    "environment_names",
    "find_environment",
    "install_environment",
    "interpreter_of",
    "load_environment",
    "versions_in",
]

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mopt.errors import MissingEnvironmentError, UserError
from mopt.system.digests import file_digest, versions
from mopt.system.plugins import nearest
from mopt.system.store import default_root

_FOLDER = Path(__file__).parent / "environments"
_READY = "installed.txt"
"""Written last: what pip has installed. An environment without it was left half made."""
_LOG_LINES = 15


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """What an environment has.

    Attributes:
        name: Of its file.
        about: What it is for, in a line.
        python: Version of Python for which the constraints were tested, such as ``3.11``; others take the requirements alone.
        requirements: What is installed.
        without_dependencies: What is installed after it without what it asks for.
        removed: What is removed again after it: packages that others draw in and that do not work beside them.
        needs: Programs outside of Python that must be on the PATH, such as ``java``.
        path: The file; its other lines are the constraints.
    """

    name: str
    about: str
    python: str
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...]
    removed: tuple[str, ...]
    needs: tuple[str, ...]
    path: Path

    @property
    def constraints(self) -> tuple[str, ...]:
        """The tested versions; none for another Python."""
        if self.python != f"{sys.version_info.major}.{sys.version_info.minor}":
            return ()
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return tuple(line for line in lines if line and not line.startswith("#"))

    @property
    def folder(self) -> Path:
        """Where it is, or will be: another list, or another Python, has another folder."""
        root = Path(os.environ.get("MOPT_TOOLS") or default_root() / "tools").absolute()
        return root / f"{self.name}-py{sys.version_info.major}{sys.version_info.minor}-{file_digest(self.path)[:12]}"


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment that is there."""

    name: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.program("python")

    @property
    def programs(self) -> Path:
        """The folder that its programs are in, for the PATH."""
        return self.folder / "bin"

    def program(self, name: str) -> Path:
        """Return where one of its programs is."""
        return self.programs / name

    @property
    def packages(self) -> Path:
        """Its ``site-packages``."""
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    @property
    def path(self) -> str:
        """The PATH of a process that runs in it."""
        return f"{self.programs}{os.pathsep}{os.environ.get('PATH', '')}"

    def version(self, distribution: str) -> str:
        """Return the version of a distribution in it; empty when it is not there."""
        prefix = f"{distribution.lower().replace('_', '-')}=="
        lines = (self.folder / _READY).read_text(encoding="utf-8").splitlines()
        return next((line.partition("==")[2] for line in lines if line.lower().replace("_", "-").startswith(prefix)), "")


def environment_names() -> tuple[str, ...]:
    """Return the names of all environments that can be installed."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


@functools.cache
def load_environment(name: str) -> EnvironmentSpec:
    """Read what an environment has.

    Raises:
        UserError: When there is none of that name.
    """
    path = _FOLDER / f"{name}.txt"
    if name not in environment_names():
        raise UserError(f"unknown environment: {name}", nearest(name, environment_names()))
    head: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, colon, value = line.removeprefix("#").partition(":")
        if line.startswith("#") and colon:
            head[key.strip()] = value.strip()
    return EnvironmentSpec(
        name=name,
        about=head["about"],
        python=head["python"],
        requirements=tuple(head["requirements"].split()),
        without_dependencies=tuple(head.get("without dependencies", "").split()),
        removed=tuple(head.get("removed", "").split()),
        needs=tuple(head.get("needs", "").split()),
        path=path,
    )


def find_environment(name: str) -> Environment | None:
    """Return an environment that is installed; None when it is not, or a program that it needs is not there."""
    spec = load_environment(name)
    if not (spec.folder / _READY).is_file() or any(shutil.which(program) is None for program in spec.needs):
        return None
    return Environment(name, spec.folder)


def interpreter_of(name: str) -> Path | None:
    """Return the Python of an environment; None, for mopt's own, where no environment is named.

    Raises:
        MissingEnvironmentError: When it is not installed.
    """
    if not name:
        return None
    environment = find_environment(name)
    if environment is None:
        raise MissingEnvironmentError(name)
    return environment.python


def versions_in(name: str, libraries: Sequence[str]) -> dict[str, str]:
    """Return the version of each distribution in an environment, or in mopt's own; empty when it is missing."""
    if not name:
        return versions(libraries)
    environment = find_environment(name)
    return {library: environment.version(library) if environment else "" for library in libraries}


def install_environment(name: str) -> Environment:
    """Make an environment, unless it is there; a second process that asks for it waits for the first.

    Raises:
        UserError: When pip cannot install it; with the end of what it said.
    """
    import filelock

    spec = load_environment(name)
    for program in spec.needs:
        if shutil.which(program) is None:
            raise UserError(f"{name} needs {program}, which is not on the PATH", f"install {program}, then try again")
    spec.folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(spec.folder.with_suffix(".lock")):
        if not (spec.folder / _READY).is_file():
            shutil.rmtree(spec.folder, ignore_errors=True)
            _make(spec)
    return Environment(name, spec.folder)


def _make(spec: EnvironmentSpec) -> None:
    _run([sys.executable, "-m", "venv", str(spec.folder)], spec)
    python = str(spec.folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    constraints = spec.folder / "constraints.txt"
    constraints.write_text("\n".join(spec.constraints) + "\n", encoding="utf-8")
    bound = ["--constraint", str(constraints)]
    _run([*pip, "install", *bound, *spec.requirements], spec)
    if spec.without_dependencies:
        _run([*pip, "install", *bound, "--no-deps", *spec.without_dependencies], spec)
    if spec.removed:
        _run([*pip, "uninstall", "--yes", *spec.removed], spec)
    freeze = _run([*pip, "freeze"], spec)
    (spec.folder / _READY).write_text(freeze, encoding="utf-8")


def _run(command: list[str], spec: EnvironmentSpec) -> str:
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()[-_LOG_LINES:]
        raise UserError(
            f"{spec.name} cannot be installed: {' | '.join(lines) or f'pip ended with {result.returncode}'}",
            "check the network and the package index that pip uses",
        )
    return result.stdout
