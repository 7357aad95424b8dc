"""ONNX Runtime GenAI behind a service of its own: the library has no server."""

from __future__ import annotations

__all__ = ["OnnxruntimeGenai"]

import dataclasses
from typing import ClassVar

from mopt.artifacts.serving.language._openai_service import OpenAIService


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxruntimeGenai(OpenAIService):
    """Tokenizer, template and generator are the library's, as judged."""

    title: ClassVar[str] = "ONNX Runtime GenAI"
    distribution: ClassVar[str] = "onnxruntime-genai"
    environment: ClassVar[str] = "onnxruntime_genai"
    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime_genai",)
    methods: ClassVar[tuple[str, ...]] = ("onnxruntime_genai",)
