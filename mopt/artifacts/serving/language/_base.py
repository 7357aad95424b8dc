"""What every serving system of language models is: what it takes, the files it is started with, and how it is started here."""

from __future__ import annotations

__all__ = ["METHODS", "LanguageServing", "ServedLanguageModel", "make_language_serving"]

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.errors import NotApplicableError
from mopt.model.quantization import LayerQuantization
from mopt.records.serving import Proof
from mopt.system.environments import Environment
from mopt.system.plugins import load, name_of

METHODS = (
    "none", "compressed-tensors", "gptq", "awq", "modelopt", "gguf", "onnxruntime_genai", "openvino_genai",
)  # fmt: skip
"""How a checkpoint says that it is quantized: ``quant_method`` of its configuration, or its whole format."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedLanguageModel:
    """A language model as it is to be served.

    Attributes:
        name: What clients call it.
        architecture: Class of transformers, such as ``LlamaForCausalLM``; of a GGUF the same where it can be told.
        format: Of the files; see :mod:`mopt.model.formats`.
        method: One of :data:`METHODS`.
        scheme: How the weights are held, where all layers share one scheme; None for mixed bits and for none.
        context: Tokens that prompt and answer may have together.
        threads: Of one server, as it was judged.
        kv_cache: Type of the cache that the checkpoint asks for: ``fp8``, ``int8`` or nothing.
        chat: Whether it has a chat template.
        group_size: Of the weights; 0 where there is none or they differ.
        detail: For GGUF the type, such as ``Q4_K_M``.
    """

    name: str
    architecture: str
    format: str
    method: str
    scheme: LayerQuantization | None = None
    context: int = 2048
    threads: int = 1
    kv_cache: str = ""
    chat: bool = False
    group_size: int = 0
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageServing(abc.ABC):
    """Writes the folder that one serving system is started from, and starts that system on it."""

    environment: ClassVar[str] = ""
    """The environment of ``mopt tools`` that has the server; empty where it cannot be installed."""
    runtimes: ClassVar[tuple[str, ...]]
    """Language runtimes in which its candidates are judged: its own engine, or what stands in for it."""
    stands_in: ClassVar[str] = ""
    """Why these are not its own engine, for people to read; empty where they are."""
    methods: ClassVar[tuple[str, ...]]
    """Those of :data:`METHODS` that it loads."""
    unmaintained: ClassVar[str] = ""
    """Why nobody should begin with this system; empty where its makers look after it."""

    @property
    def name(self) -> str:
        """The name of the serving system: its file's, or its entry point's."""
        return name_of(type(self))

    @abc.abstractmethod
    def refuses(self, served: ServedLanguageModel) -> str:
        """Return why it cannot serve this model, from its own table of architectures and schemes; nothing when it can.

        It is asked before anything is quantized.
        """

    @abc.abstractmethod
    def write(self, folder: Path, *, served: ServedLanguageModel, model_folder: Path) -> None:
        """Fill an empty folder: ``README.md`` with the one command that starts it and a request that streams, options, scripts.

        The folder will be ``ARTIFACT/serving/NAME`` and the model ``ARTIFACT/model``: name it from there as ``../../model``.

        Raises:
            NotApplicableError: When this system cannot serve this model.
        """

    def check(
        self, folder: Path, *, served: ServedLanguageModel, model_folder: Path, environment: Environment | None
    ) -> Sequence[Proof]:
        """Check files and weights with what the system's makers publish for it, without starting it: schemas, decoders."""
        return ()

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
        """Say how the real server is started; it answers OpenAI's protocol at ``Launch.url`` (``http://127.0.0.1:PORT/v1``).

        ``Launch.protocol`` is ``openai`` and ``Launch.model`` what requests call the model.

        Raises:
            NotApplicableError: When it cannot run here, with the reason.
        """
        raise NotApplicableError(f"no server of {self.name} can be installed here")


def make_language_serving(name: str) -> LanguageServing:
    """Return a serving system of language models by its name.

    Raises:
        UserError: When there is none of that name.
    """
    kind: type[LanguageServing] = load("language_serving", name)
    return kind()
