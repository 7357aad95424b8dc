"""llama.cpp's converter, as the package of AutoRound carries it, for the Python of environment ``llm_compressor``."""

from __future__ import annotations

__all__ = ["architecture_of", "load_converter"]

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mopt.errors import NotApplicableError

_CONVERTER = Path("export", "export_to_gguf")
"""In the package: the folder ``conversion`` of llama.cpp, unchanged."""


class _Known:
    """An enumeration of ``gguf``, with None for what this ``gguf`` does not know.

    The converter is newer than the ``gguf`` that is published, and one architecture that is new in a file would keep all
    others of that file from being loaded.
    """

    def __init__(self, known: Any) -> None:
        self._known = known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._known, name, None)


def load_converter() -> ModuleType:
    """Import it; AutoRound itself is not imported."""
    import gguf

    spec = importlib.util.find_spec("auto_round")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = str(Path(spec.submodule_search_locations[0]) / _CONVERTER)
    if folder not in sys.path:
        sys.path.insert(0, folder)
        gguf.MODEL_ARCH, gguf.MODEL_TENSOR = _Known(gguf.MODEL_ARCH), _Known(gguf.MODEL_TENSOR)
    return importlib.import_module("conversion")


def architecture_of(conversion: ModuleType, name: str) -> tuple[Any, str]:
    """Return the converter's class for one of transformers, and what llama.cpp calls the architecture.

    Raises:
        NotApplicableError: When it has none, or the ``gguf`` that is published does not know it yet.
    """
    import gguf

    try:
        kind = conversion.get_model_class(name)
    except (NotImplementedError, KeyError):
        raise NotApplicableError(f"llama.cpp's converter does not know {name}") from None
    known = gguf.MODEL_ARCH_NAMES.get(getattr(kind, "model_arch", None))
    if known is None:
        raise NotApplicableError(f"llama.cpp's converter knows {name}, and the published gguf does not yet")
    return kind, str(known)
