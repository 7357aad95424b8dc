"""OpenVINO Model Server: a graph around its LLM calculator, which puts requests together as they come."""

from __future__ import annotations

__all__ = ["OpenvinoModelServer"]

import dataclasses
import json
import shutil
from pathlib import Path
from typing import ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving._pbtxt import quote
from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel
from mopt.artifacts.serving.language._openai_service import refused_architecture, request_lines
from mopt.errors import NotApplicableError
from mopt.model.openvino_properties import OpenvinoProperties
from mopt.system.environments import Environment

_PROGRAM = "/ovms/bin/ovms"
"""Where it lies in its own container."""
_GRAPH = """\
input_stream: "HTTP_REQUEST_PAYLOAD:input"
output_stream: "HTTP_RESPONSE_PAYLOAD:output"
node {{
  name: "LLMExecutor"
  calculator: "HttpLLMCalculator"
  input_side_packet: "LLM_NODE_RESOURCES:llm"
  input_stream: "LOOPBACK:loopback"
  input_stream: "HTTP_REQUEST_PAYLOAD:input"
  output_stream: "LOOPBACK:loopback"
  output_stream: "HTTP_RESPONSE_PAYLOAD:output"
  input_stream_info {{
    tag_index: "LOOPBACK:0"
    back_edge: true
  }}
  node_options {{
    [type.googleapis.com/mediapipe.LLMCalculatorOptions] {{
      models_path: {models}
      device: "CPU"
      plugin_config: {plugin}
      pipeline_type: LM_CB
      max_num_batched_tokens: {context}
      max_tokens_limit: {context}
    }}
  }}
  input_stream_handler {{
    input_stream_handler: "SyncSetInputStreamHandler"
    options {{
      [mediapipe.SyncSetInputStreamHandlerOptions.ext] {{
        sync_set {{ tag_index: "LOOPBACK:0" }}
      }}
    }}
  }}
}}
"""
"""Fields of ``LLMCalculatorOptions`` (src/llm/llm_calculator.proto); the streams are those that its documentation demands."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenvinoModelServer(LanguageServing):
    """``graph.pbtxt`` and ``config.json`` for ``ovms``, with the properties that were judged."""

    runtimes: ClassVar[tuple[str, ...]] = ("openvino_genai",)
    stands_in: ClassVar[str] = (
        "its engine is OpenVINO GenAI, which is judged with the graph's own attention; the server itself, which is in no "
        "registry of packages, runs paged attention over several requests at once, and was not run"
    )
    methods: ClassVar[tuple[str, ...]] = ("openvino_genai",)

    def refuses(self, served: ServedLanguageModel) -> str:
        """Ask the list of architectures that optimum-intel exports."""
        return refused_architecture("openvino_genai", served)

    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Write the graph, the list of models and ``README.md``."""
        if served.format != "openvino_genai":
            raise NotApplicableError(f"it loads models of openvino_genai, not {served.format}")
        plugin = json.dumps(OpenvinoProperties.read(model_folder).plugin(served.threads))
        graph = _GRAPH.format(models=quote("../../model"), plugin=quote(plugin), context=served.context)
        (folder / "graph.pbtxt").write_text(graph, encoding="utf-8")
        models = {"model_config_list": [], "mediapipe_config_list": [{"name": served.name, "base_path": "."}]}
        (folder / "config.json").write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text("\n".join(_readme(served)) + "\n", encoding="utf-8")

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
        """Start the server where it is on the PATH, or this runs in its container."""
        program = shutil.which("ovms") or shutil.which(_PROGRAM)
        if program is None:
            raise NotApplicableError("its server is in no registry of packages, only in its container and its own downloads")
        url = f"http://127.0.0.1:{ports.http}"
        return Launch(
            command=[
                program, "--config_path", folder / "config.json", "--rest_port", str(ports.http),
                "--rest_bind_address", "127.0.0.1", "--file_system_poll_wait_seconds", "0",
            ],
            ready=[f"{url}/v2/models/{served.name}/ready"],
            url=f"{url}/v3",
            protocol="openai",
            model=served.name,
            folder=folder,
            version="OpenVINO Model Server",
        )  # fmt: skip


def _readme(served: ServedLanguageModel) -> list[str]:
    return [
        f"# {served.name} in OpenVINO Model Server",
        "",
        "Start it, from this folder:",
        "",
        "```console",
        'docker run --rm -p 8000:8000 -v "$PWD/../..:/artifact:ro" openvino/model_server:latest \\',
        "  --config_path /artifact/serving/openvino_model_server/config.json --rest_port 8000",
        "```",
        "",
        "Ask it, and read the answer as it is written:",
        "",
        "```console",
        *(line.replace("/v1/", "/v3/") for line in request_lines(served, 8000)),
        "```",
        "",
        "- **Not run in this server**: the model was judged in OpenVINO GenAI, the server's engine, with the attention",
        "  of the graph. The server runs paged attention, over several requests at once.",
        f"- {served.threads} threads, precision and cache as they were judged: `plugin_config` in `graph.pbtxt`.",
        "- Needs a release with an OpenVINO as new as the one that wrote the model.",
        f"- An answer has {served.context} tokens at most.",
    ]
