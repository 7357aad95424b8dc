"""Ahead-of-time model compiler and optimiser.

``mopt.build(model=..., data=...)`` does what ``mopt build`` does and returns the artifact.
"""

from __future__ import annotations

__all__ = ["Artifact", "Recipe", "build"]

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopt.flow import Artifact, build
    from mopt.recipe import Recipe

_HOMES = {"Artifact": "mopt.flow", "Recipe": "mopt.recipe", "build": "mopt.flow"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mopt' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
