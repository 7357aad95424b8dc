"""OpenVINO GenAI on the CPU: its pipeline answers, and the same graph with the same properties is scored."""

from __future__ import annotations

__all__ = ["OpenvinoGenai"]

import collections
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.openvino_properties import OpenvinoProperties
from mopt.runtimes.language._base import Generation, LanguageRuntime, LanguageSession, TokenScores
from mopt.runtimes.language._token_scores import token_scores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_LOGITS_LIMIT = 1 << 28
"""Bytes of logits that one inference gives at most; a longer window is fed in pieces, each on the cache of those before it."""
_COMPUTE = ("FullyConnected", "MatMul", "LLMMLP", "QKVProjection", "ScaledDotProductAttention", "PagedAttention", "Convolution")
_NAMES = {"f32": "fp32", "f16": "fp16", "u4": "int4", "i4": "int4", "u8": "int8", "i8": "int8"}
_WIDTHS = ("int4", "nf4", "int8", "fp16", "bf16", "fp32")
_COMPARED = 16
"""Greedy tokens after which pipeline and graph count as the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenvinoGenai(LanguageRuntime):
    """One request at a time on one stream; what else changes numbers is in ``openvino_properties.json``."""

    formats: ClassVar[tuple[str, ...]] = ("openvino_genai",)
    libraries: ClassVar[tuple[str, ...]] = ("openvino-genai", "openvino", "openvino-tokenizers")
    tools: ClassVar[str] = "openvino_genai"

    def open(self, folder: Path) -> LanguageSession:
        """Load the model in a folder."""
        return _Session(folder, self)


class _Session(LanguageSession):
    def __init__(self, folder: Path, runtime: OpenvinoGenai) -> None:
        import openvino_genai

        self._folder = folder
        positions = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
        if positions is not None and runtime.context > int(positions):
            raise CandidateRejectedError(
                Rejection.UNSUPPORTED, f"the model was made for {positions} tokens, and {runtime.context} are asked for"
            )
        self._plugin = OpenvinoProperties.read(folder).plugin(runtime.threads)
        self._tokenizer = openvino_genai.Tokenizer(str(folder))
        # The graph's own attention, which is what is scored, and which keeps nothing of an earlier request.
        self._pipeline = openvino_genai.LLMPipeline(
            str(folder), self._tokenizer, "CPU", **self._plugin, ATTENTION_BACKEND="SDPA"
        )

    @functools.cached_property
    def _compiled(self) -> Any:
        """The graph by itself, which is loaded when something is scored: the pipeline gives no logits."""
        import openvino

        return openvino.Core().compile_model(str(self._folder / "openvino_model.xml"), "CPU", self._plugin)

    @functools.cached_property
    def _request(self) -> Any:
        return self._compiled.create_infer_request()

    def score(self, windows: Sequence[Tokens], top: int) -> list[TokenScores]:
        return [token_scores(self._logits(window), window, top) for window in windows]

    def _logits(self, window: Tokens) -> npt.NDArray[np.float32]:
        import numpy as np

        self._request.reset_state()
        step = max(1, _LOGITS_LIMIT // (4 * self._vocabulary()))
        return np.concatenate([self._step(window[start : start + step], start) for start in range(0, len(window), step)])

    def _step(self, tokens: Tokens, seen: int) -> npt.NDArray[np.float32]:
        """Return logits of tokens, shape [n, vocabulary], on the cache of the ``seen`` tokens before them."""
        import numpy as np

        count = len(tokens)
        feed = {
            "input_ids": np.asarray(tokens, np.int64)[None],
            "attention_mask": np.ones((1, seen + count), np.int64),
            "position_ids": np.arange(seen, seen + count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        names = {name for port in self._compiled.inputs for name in port.get_names()}
        self._request.start_async({name: value for name, value in feed.items() if name in names})
        self._request.wait()  # which says when the graph cannot compute it; with one thread infer() is silent about it
        return np.array(self._request.get_tensor("logits").data[0], np.float32)

    def _vocabulary(self) -> int:
        return int(self._compiled.output("logits").get_partial_shape()[2].get_length())

    def generate(self, prompt: Tokens, count: int) -> Generation:
        import numpy as np
        import openvino

        config = self._pipeline.get_generation_config()
        config.max_new_tokens = count
        config.min_new_tokens = 0
        config.do_sample = False
        config.num_beams = 1
        config.repetition_penalty = 1.0
        config.apply_chat_template = False
        answer = self._pipeline.generate(openvino.Tensor(np.asarray(prompt, np.int64)[None]), config)
        ids = tuple(int(token) for token in answer.tokens[0])
        first = answer.perf_metrics.get_ttft().mean / 1e3
        rest = answer.perf_metrics.get_tpot().mean / 1e3 * (len(ids) - 1) if len(ids) > 1 else 0.0
        return Generation(ids=ids, first_seconds=first, rest_seconds=rest)

    def tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text).input_ids.data[0]]

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True))

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if not self._tokenizer.chat_template:
            raise NotApplicableError("the model has no chat template")
        return str(self._tokenizer.apply_chat_template([dict(message) for message in messages], add_generation_prompt=True))

    def evidence(self) -> dict[str, Any]:
        self._step_once()
        kernels = dict(sorted(collections.Counter(_kernels(self._compiled.get_runtime_model())).items()))
        values = {name: _plain(self._compiled.get_property(name)) for name in self._plugin}
        return {
            "kernels": kernels,
            "precision": _precision(kernels),
            "properties": values,
            "threads": values["INFERENCE_NUM_THREADS"],
            "vocabulary": self._vocabulary(),
            "greedy tokens that pipeline and graph share": self._shared_tokens(),
            "versions": {name: metadata.version(name) for name in ("openvino", "openvino-genai", "openvino-tokenizers")},
        }

    def _step_once(self) -> None:
        """Run the graph, after which its runtime model says what was executed."""
        import numpy as np

        self._request.reset_state()
        self._step(np.arange(2, dtype=np.int64), 0)

    def _shared_tokens(self) -> str:
        """Answer a few tokens in the pipeline and token by token in the graph that is scored."""
        import numpy as np

        prompt = np.arange(min(8, self._vocabulary()), dtype=np.int64)
        answered = self.generate(prompt, _COMPARED).ids
        self._request.reset_state()
        logits, computed = self._step(prompt, 0), list[int]()
        for position in range(len(answered)):
            computed.append(int(logits[-1].argmax()))
            logits = self._step(np.array(computed[-1:], np.int64), len(prompt) + position)
        same = next((at for at, pair in enumerate(zip(answered, computed, strict=True)) if pair[0] != pair[1]), len(answered))
        return f"{same} of {len(answered)}"


def _kernels(model: Any) -> Iterator[str]:
    """Operators that multiply, each with the type of its weights and the kernel that the plugin chose."""
    for node in model.get_ops():
        info = {key: str(_plain(value)) for key, value in node.get_rt_info().items()}
        kind = info.get("layerType", "")
        if kind not in _COMPUTE:
            continue
        if kind == "FullyConnected":
            held = node.input(1).get_element_type().get_type_name()
            yield f"FullyConnected {_NAMES.get(held, held)} weights, {info.get('primitiveType', '?')}"
        else:
            yield f"{kind} {_NAMES.get(info.get('runtimePrecision', '?'), '?')}"


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    named = getattr(value, "get_type_name", None)
    return named() if named else value if isinstance(value, int | str) else str(value)


def _precision(kernels: Mapping[str, int]) -> str:
    """Types of the weights of linear layers, the narrowest first."""
    kinds = {name.split()[1] for name in kernels if name.startswith("FullyConnected")}
    return "+".join([kind for kind in _WIDTHS if kind in kinds])
