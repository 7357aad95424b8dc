"""Packages with plugins, as an installer leaves them: a folder that goes on ``PYTHONPATH``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def install(folder: Path, name: str, modules: Mapping[str, str], plugins: Mapping[str, str], version: str = "1.0") -> None:
    """Write a package and its metadata.

    Args:
        folder: Like a ``site-packages``.
        name: Of the distribution and of its package.
        modules: Source by name of the module in the package.
        plugins: ``module:Class`` by kind and name, such as ``passes/round_weights``.
        version: Of the distribution.
    """
    package = folder / name
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    for module, source in modules.items():
        (package / f"{module}.py").write_text(source, encoding="utf-8")
    for stale in folder.glob(f"{name}-*.dist-info/*"):
        stale.unlink()
    for stale in folder.glob(f"{name}-*.dist-info"):
        stale.rmdir()
    information = folder / f"{name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines: list[str] = []
    for key, value in plugins.items():
        kind, _, plugin = key.partition("/")
        lines += [f"[mopt.{kind}]", f"{plugin} = {name}.{value}", ""] if f"[mopt.{kind}]" not in lines else []
    (information / "entry_points.txt").write_text("\n".join(lines))


def python(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter where a package is installed in ``folder``."""
    path = os.pathsep.join([str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **environment}
    )
