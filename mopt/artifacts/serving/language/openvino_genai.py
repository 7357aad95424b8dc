"""OpenVINO GenAI behind a service of its own: the library has no server."""

from __future__ import annotations

__all__ = ["OpenvinoGenai"]

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving.language._base import ServedLanguageModel
from mopt.artifacts.serving.language._openai_service import OpenAIService
from mopt.model.openvino_properties import OpenvinoProperties


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenvinoGenai(OpenAIService):
    """Tokenizer, template and pipeline are the library's, as judged."""

    title: ClassVar[str] = "OpenVINO GenAI"
    distribution: ClassVar[str] = "openvino-genai"
    environment: ClassVar[str] = "openvino_genai"
    runtimes: ClassVar[tuple[str, ...]] = ("openvino_genai",)
    methods: ClassVar[tuple[str, ...]] = ("openvino_genai",)

    def settings(self, served: ServedLanguageModel, model_folder: Path) -> Mapping[str, Any]:
        """Properties of the plugin, as the artifact was judged with."""
        properties = OpenvinoProperties.read(model_folder).plugin(served.threads)
        return {"properties": {**properties, "ATTENTION_BACKEND": "SDPA"}}
