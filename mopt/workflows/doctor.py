"""What of mopt works on this machine."""

from __future__ import annotations

__all__ = ["examine"]

import os
import shutil
from importlib import metadata
from typing import TYPE_CHECKING, Any

from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.system.nvidia import devices
from mopt.system.store import default_root
from mopt.workflows.tools import list_tools

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_BUSY = 1.0
_LITTLE_DISK = 5e9


def examine() -> dict[str, Any]:
    """Return the machine, the libraries of each extra, the servers, and what stands in the way, as JSON data."""
    machine = detect()
    root = default_root()
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    return {
        "machine": {
            "cpu": machine.cpu,
            "isa": " ".join(machine.isa) or "none that matters",
            "cores": machine.cores,
            "gpu": ", ".join(f"{device.name} ({device.capability}, CUDA {device.driver})" for device in devices()) or "none",
            "memory": f"{machine.memory_bytes / 1e9:.1f} GB",
            "cache": str(root),
            "disk free": f"{free / 1e9:.1f} GB",
        },
        "libraries": _libraries(),
        "tools": list_tools(),
        "problems": _problems(free),
    }


def _libraries() -> list[dict[str, str]]:
    """What mopt requires here: by itself, and for each extra but ``all``, which is made of the others."""
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in metadata.requires("mopt") or []]
    extras = sorted({*(metadata.metadata("mopt").get_all("Provides-Extra") or []), ""} - {"all"})
    rows = [
        _library(extra, requirement)
        for extra in extras
        for requirement in requirements
        if requirement.name != "mopt" and _is_part_of(extra, requirement)
    ]
    return sorted(rows, key=lambda row: (row["extra"], row["library"]))


def _is_part_of(extra: str, requirement: Requirement) -> bool:
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return not extra
    return bool(extra) and marker.evaluate({"extra": extra})


def _library(extra: str, requirement: Requirement) -> dict[str, str]:
    version = _version(requirement.name)
    fits = bool(version) and requirement.specifier.contains(version, prereleases=True)
    install = "" if fits else f"pip install 'mopt[{extra}]'" if extra else "pip install mopt"  # it replaces what is too old
    return {"extra": extra, "library": requirement.name, "version": version, "install": install}


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _problems(free: float) -> list[str]:
    problems = []
    if free < _LITTLE_DISK:
        problems.append(f"only {free / 1e9:.1f} GB free where the cache lies; set $MOPT_CACHE to another disk")
    load = NoiseMonitor().summary().get("load_1m", 0.0)
    if load > _BUSY:
        problems.append(f"the load is {load}: other work here makes measurements noisy")
    if not os.access(next(p for p in (default_root(), *default_root().parents) if p.exists()), os.W_OK):
        problems.append("the cache folder cannot be written; set $MOPT_CACHE")
    return problems
