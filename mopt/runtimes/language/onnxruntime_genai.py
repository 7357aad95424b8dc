"""ONNX Runtime GenAI on the CPU: the graph of its builder, run by its own generator."""

from __future__ import annotations

__all__ = ["OnnxruntimeGenai"]

import collections
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.runtimes.language._base import Generation, LanguageRuntime, LanguageSession, TokenScores
from mopt.runtimes.language._token_scores import token_scores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_EVIDENCE_LIMIT = 1 << 30
"""Bytes of a model above which the graph that ONNX Runtime makes of it is not written out to be looked at."""
_LOGITS_LIMIT = 1 << 28
"""Bytes of logits that one call gives at most; a longer window is fed in pieces, each on the cache of those before it."""
_LEVELS = {0: "float32", 1: "float32", 2: "float16", 3: "bfloat16", 4: "int8"}
"""What ``accuracy_level`` of MatMulNBits rounds activations to, on a CPU."""
_FLOAT = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxruntimeGenai(LanguageRuntime):
    """One request at a time on a fixed number of threads; the tokenizer and the template are the library's own."""

    formats: ClassVar[tuple[str, ...]] = ("onnxruntime_genai",)
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime-genai", "onnxruntime")
    tools: ClassVar[str] = "onnxruntime_genai"

    def open(self, folder: Path) -> LanguageSession:
        """Load the model in a folder."""
        return _Session(folder, self)


class _Session(LanguageSession):
    def __init__(self, folder: Path, runtime: OnnxruntimeGenai) -> None:
        import onnxruntime_genai

        self._library = onnxruntime_genai
        self._folder = folder
        self._threads = runtime.threads
        self._settings = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        self._context = int(self._settings["model"]["context_length"])
        if runtime.context > self._context:
            raise CandidateRejectedError(
                Rejection.UNSUPPORTED, f"the model was made for {self._context} tokens, and {runtime.context} are asked for"
            )
        config = onnxruntime_genai.Config(str(folder))
        threads = {"intra_op_num_threads": runtime.threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = onnxruntime_genai.Model(config)
        self._tokenizer = onnxruntime_genai.Tokenizer(self._model)
        self._tokenizer.update_options(add_special_tokens="true")  # without it no start token is put before a text

    def score(self, windows: Sequence[Tokens], top: int) -> list[TokenScores]:
        return [token_scores(self._logits(window), window, top) for window in windows]

    def _logits(self, window: Tokens) -> npt.NDArray[np.float32]:
        import numpy as np

        generator = self._generator(len(window) + 1)
        step = max(1, _LOGITS_LIMIT // (4 * int(self._settings["model"]["vocab_size"])))
        pieces = []
        for start in range(0, len(window), step):
            generator.append_tokens(np.asarray(window[start : start + step], np.int32))
            pieces.append(np.array(generator.get_output("logits")[0], np.float32))
        return np.concatenate(pieces)

    def generate(self, prompt: Tokens, count: int) -> Generation:
        import numpy as np

        generator = self._generator(len(prompt) + count)
        start = time.perf_counter()
        generator.append_tokens(np.asarray(prompt, np.int32))
        ids: list[int] = []
        first = start
        while len(ids) < count and not generator.is_done():
            generator.generate_next_token()
            ids.append(int(generator.get_next_tokens()[0]))
            if len(ids) == 1:
                first = time.perf_counter()
        end = time.perf_counter()
        return Generation(ids=tuple(ids), first_seconds=first - start, rest_seconds=end - first)

    def _generator(self, length: int) -> Any:
        """A generator that has seen nothing, greedy, whatever the model's own settings are."""
        parameters = self._library.GeneratorParams(self._model)
        parameters.set_search_options(
            max_length=min(length, self._context), min_length=0, do_sample=False, num_beams=1, num_return_sequences=1,
            repetition_penalty=1.0, no_repeat_ngram_size=0,
        )  # fmt: skip
        return self._library.Generator(self._model, parameters)

    def tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]

    def detokenize(self, ids: Sequence[int]) -> str:
        import numpy as np

        return str(self._tokenizer.decode(np.asarray(ids, np.int32)))

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if not _has_template(self._folder):
            raise NotApplicableError("the model has no chat template")
        plain = json.dumps([dict(message) for message in messages], ensure_ascii=False)
        return str(self._tokenizer.apply_chat_template(messages=plain, add_generation_prompt=True))

    def evidence(self) -> dict[str, Any]:
        path = self._folder / str(self._settings["model"]["decoder"]["filename"])
        size = sum(file.stat().st_size for file in self._folder.iterdir())
        graph, seen = (
            (_optimized(path), "optimized graph") if size <= _EVIDENCE_LIMIT else (_read(path), "graph of the builder")
        )
        kernels = dict(sorted(collections.Counter(_kernels(graph.node)).items()))
        return {
            "kernels": kernels,
            "precision": _precision(kernels),
            "threads": self._threads,
            "vocabulary": int(self._settings["model"]["vocab_size"]),
            "seen in": seen,
            "versions": {name: metadata.version(name) for name in ("onnxruntime-genai", "onnxruntime")},
        }


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("chat_template"))


def _read(path: Path) -> Any:
    import onnx

    return onnx.load(str(path), load_external_data=False).graph


def _optimized(path: Path) -> Any:
    """The graph that ONNX Runtime makes of the model when it is loaded."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return _read(Path(options.optimized_model_filepath))


def _kernels(nodes: Any) -> Iterator[str]:
    for node in nodes:
        fields = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "MatMulNBits":
            activations = _LEVELS[fields.get("accuracy_level", 0)]
            yield f"MatMulNBits int{fields.get('bits', 4)} in blocks of {fields['block_size']}, activations {activations}"
        elif node.op_type == "GatherBlockQuantized":
            yield f"GatherBlockQuantized int{fields.get('bits', 4)} in blocks of {fields.get('block_size', 0)}"
        elif node.op_type in _FLOAT:
            yield f"{node.op_type} float32"
        elif node.op_type.endswith("Attention"):
            yield node.op_type


def _precision(kernels: Mapping[str, int]) -> str:
    """Types of the weights of linear layers, the narrowest first."""
    kinds = {name.split()[1] for name in kernels if name.startswith(("MatMulNBits", *_FLOAT))}
    names = {"float32": "fp32"}
    return "+".join(names.get(kind, kind) for kind in ("int2", "int4", "int8", "float32") if kind in kinds)
