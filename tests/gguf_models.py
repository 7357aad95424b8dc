"""A small GGUF of llama.cpp's own converter, and passes run as a build runs them, in the environments of ``mopt tools``."""

from __future__ import annotations

__all__ = ["MODEL", "apply", "exported"]

import functools
import tempfile
from pathlib import Path
from typing import Any

from mopt.model.files import Model
from mopt.passes._base import Pass, run_passes
from mopt.passes.language.export_gguf import ExportGguf
from mopt.system.deadlines import TimeLimit
from mopt.system.environments import interpreter_of
from mopt.system.process import run
from tests.language_models import TinyModel

MODEL = TinyModel(hidden=256, inner=512, heads=4, groups=2)


def apply(step: Pass, source: Model, folder: Path) -> dict[str, Any]:
    """Run a pass in its environment; return what it did."""
    folder.mkdir(parents=True, exist_ok=True)
    (result,) = run(run_passes, (step,), source, folder, limit=TimeLimit(600), python=interpreter_of(step.tools))
    return dict(result)


@functools.cache
def exported(dtype: str = "f16") -> tuple[Path, Path]:
    """Return the folder of a Hugging Face model, and that of the GGUF that was made of it; once for all tests of a process."""
    _MADE.append(tempfile.TemporaryDirectory(prefix="mopt-gguf-"))
    root = Path(_MADE[-1].name)
    source = MODEL.write(root / "source")
    apply(ExportGguf(dtype=dtype), Model.at("huggingface", source), root / "gguf")  # type: ignore[arg-type]
    return source, root / "gguf"


_MADE: list[tempfile.TemporaryDirectory[str]] = []
"""Gone when the process is."""
