"""Ahead-of-time model compiler and optimiser.

``mopt.build(model=..., data=...)`` does what ``mopt build`` does and returns the artifact.
"""

from __future__ import annotations

__all__ = ["Artifact", "Recipe", "build"]

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopt.artifacts.artifact import Artifact
    from mopt.recipe import Recipe
    from mopt.workflows.build import build

# ONNX Runtime since 1.29 reports to its maker what it is loaded with, unless told not to before it is imported, and Hugging
# Face's libraries what is used of them. The models are not ours to talk about. (isolation.py does it for OpenVINO.)
for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")

_HOMES = {"Artifact": "mopt.workflows.build", "Recipe": "mopt.recipe", "build": "mopt.workflows.build"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mopt' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
