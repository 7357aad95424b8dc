"""The formats that a model on disk can have, in one table."""

from __future__ import annotations

__all__ = ["FORMATS", "ONNX", "ModelFormat", "model_format"]

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelFormat:
    """A format, and where things lie in the folder of a model of it.

    Attributes:
        name: What passes, runtimes and manifests call it.
        main_file: What a runtime is given; other files may lie beside it.
        source_folder: Where the ONNX lies that it was made from; empty where the folder does not hold it.
        reduces_precision: Whether its own compiler may compute in less than FP32, whatever the graph says.
    """

    name: str
    main_file: str
    source_folder: str = ""
    reduces_precision: bool = False

    @property
    def readable_file(self) -> str:
        """What can be looked into without the runtime: the main file, or the ONNX that it was made from."""
        return f"{self.source_folder}/{ONNX.main_file}" if self.source_folder else self.main_file


ONNX = ModelFormat("onnx", "model.onnx")

FORMATS = {
    known.name: known
    for known in (
        ONNX,
        ModelFormat("openvino", "model.xml"),
        ModelFormat("savedmodel", "saved_model.pb"),
        ModelFormat("tensorrt", "model.plan", source_folder="onnx", reduces_precision=True),
        ModelFormat("huggingface", "config.json"),
        ModelFormat("quantized", "quantization.json"),
        ModelFormat("gguf", "model.gguf"),
        ModelFormat("onnxruntime_genai", "genai_config.json"),
        ModelFormat("openvino_genai", "openvino_model.xml"),
    )
}
"""Those of mopt itself."""


def model_format(name: str) -> ModelFormat:
    """Return a format; one that is not in the table is a single file ``model.<name>``, so that a plugin can bring its own."""
    return FORMATS.get(name) or ModelFormat(name, f"model.{name}")
