"""An artifact of a language model, written without a build."""

from __future__ import annotations

from pathlib import Path

from mopt.artifacts.language import served_model, write_language_artifact
from mopt.model.files import Model
from mopt.reports.language import render_files
from tests.gguf_files import LLAMA, write_gguf
from tests.language_manifests import manifest


def write_artifact(folder: Path, serving: tuple[str, ...] = ("llama_cpp",)) -> Path:
    """Write one with a GGUF that no runtime has seen; return it."""
    (folder / "model").mkdir()
    write_gguf(folder / "model" / "model.gguf", LLAMA)
    built = manifest()
    write_language_artifact(
        folder / "a.mopt",
        model=Model.at("gguf", folder / "model"),
        manifest=built,
        served=served_model(built),
        serving=serving,
        reports=render_files,
    )
    return folder / "a.mopt"
