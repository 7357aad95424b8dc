"""Ahead-of-time model compiler and optimiser.

The functions do what the commands of the same name do, and raise the same errors: ``mopt.build(model=..., data=...)`` is
``mopt build``. Nothing heavy is imported before one of them is used.
"""

from __future__ import annotations

__all__ = [
    "Artifact", "Recipe", "bench", "build", "drift", "explain", "gate", "inspect", "package", "push", "size", "verify",
    "verify_server",
]  # fmt: skip

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopt.artifacts.artifact import Artifact
    from mopt.recipe import Recipe
    from mopt.workflows.any_model import build, inspect, package, verify, verify_server
    from mopt.workflows.api import bench, explain, gate, size
    from mopt.workflows.drift import drift
    from mopt.workflows.push import push

# ONNX Runtime since 1.29 reports to its maker what it is loaded with, unless told not to before it is imported, and Hugging
# Face's libraries what is used of them. The models are not ours to talk about. (system/child.py does it for OpenVINO.)
for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")

_MODULES = {
    "Artifact": "mopt.artifacts.artifact",
    "Recipe": "mopt.recipe",
    "bench": "mopt.workflows.api",
    "build": "mopt.workflows.any_model",
    "drift": "mopt.workflows.drift",
    "explain": "mopt.workflows.api",
    "gate": "mopt.workflows.api",
    "inspect": "mopt.workflows.any_model",
    "package": "mopt.workflows.any_model",
    "push": "mopt.workflows.push",
    "size": "mopt.workflows.api",
    "verify": "mopt.workflows.any_model",
    "verify_server": "mopt.workflows.any_model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mopt' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
