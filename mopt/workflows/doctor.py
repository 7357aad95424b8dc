"""What of mopt works on this machine."""

from __future__ import annotations

__all__ = ["examine"]

import os
import re
import shutil
from importlib import metadata
from typing import Any

from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.system.nvidia import devices
from mopt.system.store import default_root

_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?[^;]*(?:;(.*))?$")
_BUSY = 1.0
_LITTLE_DISK = 5e9


def examine() -> dict[str, Any]:
    """Return the machine, the libraries of each extra with their versions, and what stands in the way, as JSON data."""
    machine = detect()
    root = default_root()
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    return {
        "machine": {
            "cpu": machine.cpu,
            "isa": " ".join(machine.isa) or "none that matters",
            "cores": machine.cores,
            "gpu": ", ".join(f"{one.name} ({one.capability}, CUDA {one.driver})" for one in devices()) or "none",
            "memory": f"{machine.memory_bytes / 1e9:.1f} GB",
            "cache": str(root),
            "disk free": f"{free / 1e9:.1f} GB",
        },
        "libraries": _libraries(),
        "problems": _problems(free),
    }


def _libraries() -> list[dict[str, str]]:
    from packaging.markers import Marker

    found: dict[tuple[str, str], dict[str, str]] = {}
    for requirement in metadata.requires("mopt") or []:
        match = _REQUIREMENT.match(requirement)
        if match is None:
            continue
        library, _, marker = match.groups()
        extra = next(iter(re.findall(r"""extra\s*==\s*['"]([^'"]+)""", marker or "")), "")
        if library == "mopt" or extra == "all" or (marker and not Marker(marker).evaluate({"extra": extra})):
            continue
        version = _version(library)
        install = "" if version else f"pip install 'mopt[{extra}]'" if extra else "pip install mopt"
        found[extra, library] = {"extra": extra, "library": library, "version": version, "install": install}
    return [found[key] for key in sorted(found)]


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
