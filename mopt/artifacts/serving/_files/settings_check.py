"""Check files with the Pydantic types of a server that ignores what it does not know; one mistake a line.

Started with pairs of a type, as ``module:Class``, and a file in JSON or YAML.
"""

from __future__ import annotations

__all__ = ["checked", "lost"]

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def lost(given: Any, kept: Any, place: str) -> list[str]:
    """Return the keys that were given and are not kept."""
    if isinstance(given, dict) and isinstance(kept, dict):
        gone = [f"{place}.{key} is known to nobody" for key in given if key not in kept]
        return gone + [text for key in given if key in kept for text in lost(given[key], kept[key], f"{place}.{key}")]
    if isinstance(given, list) and isinstance(kept, list | tuple):
        pairs = enumerate(zip(given, kept, strict=True))
        return [text for index, (one, other) in pairs for text in lost(one, other, f"{place}[{index}]")]
    return []


def checked(kind: Any, content: Any, place: str) -> list[str]:
    """Return the mistakes in what should be of a type of Pydantic's."""
    try:
        record = kind.model_validate(dict(content))
    except ValueError as error:
        return [f"{place}: {' '.join(str(error).split())}"]
    return lost(content, record.model_dump(by_alias=True, exclude_unset=True), place)


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    import yaml

    return yaml.safe_load(text)


def main(arguments: list[str]) -> None:
    """Print the mistakes."""
    for name, file in zip(arguments[::2], arguments[1::2], strict=True):
        module, _, attribute = name.partition(":")
        kind = getattr(importlib.import_module(module), attribute)
        content = _read(Path(file))
        for mistake in checked(kind, content, Path(file).name):
            print(mistake)  # noqa: T201 - what it is started for


if __name__ == "__main__":
    main(sys.argv[1:])
