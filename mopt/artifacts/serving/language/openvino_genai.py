"""OpenVINO GenAI behind a service of its own: the library has no server."""

from __future__ import annotations

__all__ = ["OpenvinoGenai"]

import dataclasses
from pathlib import Path
from typing import ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._openai_service import launch_service, refused_architecture, write_service
from mopt.errors import NotApplicableError
from mopt.model.openvino_properties import OpenvinoProperties
from mopt.system.environments import Environment


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenvinoGenai(LanguageServing):
    """``service.py`` speaks OpenAI's protocol; tokenizer, template and pipeline are the library's, as judged."""

    environment: ClassVar[str] = "openvino_genai"
    runtimes: ClassVar[tuple[str, ...]] = ("openvino_genai",)
    methods: ClassVar[tuple[str, ...]] = ("openvino_genai",)

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask the list of architectures that optimum-intel exports."""
        return refused_architecture("openvino_genai", served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write the service, its settings and ``README.md``."""
        if served.format != "openvino_genai":
            raise NotApplicableError(f"it loads models of openvino_genai, not {served.format}")
        properties = {**OpenvinoProperties.read(model_folder).plugin(served.threads), "ATTENTION_BACKEND": "SDPA"}
        write_service(
            folder,
            served=served,
            title="OpenVINO GenAI",
            environment=self.environment,
            service="openvino_genai_service.py",
            settings={"properties": properties},
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
            version=f"OpenVINO GenAI {environment.version('openvino-genai')}",
        )
