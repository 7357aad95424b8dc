"""What a model is called on a server: its own name as far as the server takes it."""

from __future__ import annotations

__all__ = ["model_name", "service_name"]

import re


def model_name(name: str) -> str:
    """Return the model's name in letters, digits, points, hyphens and underscores: a folder's name, and part of a URL."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-") or "model"


def service_name(name: str) -> str:
    """Return the model's name in lower case letters, digits and hyphens, at most 40: what every system takes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "model"
