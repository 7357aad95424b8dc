"""ONNX Runtime GenAI behind a service of its own: the library has no server."""

from __future__ import annotations

__all__ = ["OnnxruntimeGenai"]

import dataclasses
from pathlib import Path
from typing import ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._openai_service import launch_service, refused_architecture, write_service
from mopt.errors import NotApplicableError
from mopt.system.environments import Environment


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxruntimeGenai(LanguageServing):
    """``service.py`` speaks OpenAI's protocol; tokenizer, template and generator are the library's."""

    environment: ClassVar[str] = "onnxruntime_genai"
    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime_genai",)
    methods: ClassVar[tuple[str, ...]] = ("onnxruntime_genai",)

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask the list of architectures of the library's builder."""
        return refused_architecture("onnxruntime_genai", served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write the service, its settings and ``README.md``."""
        if served.format != "onnxruntime_genai":
            raise NotApplicableError(f"it loads models of onnxruntime_genai, not {served.format}")
        write_service(
            folder,
            served=served,
            title="ONNX Runtime GenAI",
            environment=self.environment,
            service="onnxruntime_genai_service.py",
            settings={},
        )

    def launch(
        self,
        folder: Path,
        *,
        served: ServedLanguageModel,
        model_folder: Path,
        environment: Environment,
        ports: Ports,
        scratch: Path,
    ) -> Launch:
        """Start the service."""
        return launch_service(
            folder,
            served=served,
            model_folder=model_folder,
            environment=environment,
            ports=ports,
            version=f"ONNX Runtime GenAI {environment.version('onnxruntime-genai')}",
        )
