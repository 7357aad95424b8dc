"""llama.cpp on a CPU: the library that llama-server is made of, and llama-server itself for chat templates."""

from __future__ import annotations

__all__ = ["LlamaCpp"]

import collections
import ctypes
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.model.formats import model_format
from mopt.model.gguf import GGUF, open_gguf
from mopt.runtimes.language._base import Generation, LanguageRuntime, LanguageSession, TokenScores
from mopt.runtimes.language._llama_server import TemplateServer
from mopt.system.llama_api import FLASH_ATTENTION_AUTO, TENSOR_TYPES, Batch, LlamaLibrary, open_library

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mopt.runtimes.language._base import Tokens

    Logits = npt.NDArray[np.float32]

_LOGITS_BYTES = 256 << 20
"""What the logits of one call may take; a vocabulary of 256,000 tokens has a megabyte a position."""
_BATCH = 512
"""Tokens of one call at most, as llama-server cuts a prompt (``--ubatch-size``)."""
_REPACKED = "CPU_REPACK"
"""Name of the buffer that weights are rearranged in, in the log, for kernels that want several rows side by side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaCpp(LanguageRuntime):
    """Loads a GGUF as llama-server does: memory-mapped, weights rearranged for the processor's kernels, flash attention.

    Attributes:
        cache_type: Of the keys and values that are kept, ``--cache-type-k`` and ``--cache-type-v`` of llama-server.
    """

    formats: ClassVar[tuple[str, ...]] = ("gguf",)
    libraries: ClassVar[tuple[str, ...]] = ("xllamacpp",)
    tools: ClassVar[str] = "llama_cpp"

    cache_type: Literal["f16", "bf16", "q8_0", "q4_0"] = "f16"

    def open(self, folder: Path) -> LlamaSession:
        """Load ``model.gguf``."""
        return LlamaSession(self, folder / model_format("gguf").main_file)


class LlamaSession(LanguageSession):
    """A model and a context of it, through the C interface.

    Raises:
        CandidateRejectedError: When llama.cpp cannot load it; with what it says.
    """

    def __init__(self, runtime: LlamaCpp, path: Path) -> None:
        self._runtime, self._path = runtime, path
        self._templates: TemplateServer | None = None
        self._gguf: GGUF = open_gguf(path)  # looked through before C++ is given a hostile file
        self._library: LlamaLibrary = open_library()
        model = self._library.llama_model_default_params()
        model.n_gpu_layers = 0
        self._model = self._library.llama_model_load_from_file(str(path).encode(), model)
        if not self._model:
            raise CandidateRejectedError(Rejection.FAILED, f"llama.cpp cannot load it: {self._library.reasons()}")
        self._vocab = self._library.llama_model_get_vocab(self._model)
        self._vocabulary = int(self._library.llama_vocab_n_tokens(self._vocab))
        self._batch = max(1, min(_BATCH, runtime.context, _LOGITS_BYTES // (4 * self._vocabulary)))
        self._context = self._library.llama_init_from_model(self._model, self._context_params())
        if not self._context:
            raise CandidateRejectedError(Rejection.FAILED, f"llama.cpp has no context for it: {self._library.reasons()}")
        self._memory = self._library.llama_get_memory(self._context)

    def score(self, windows: Sequence[Tokens], top: int) -> list[TokenScores]:
        """Return log probabilities over the whole vocabulary, one window after the other, each from an empty cache."""
        return [self._score(window, top) for window in windows]

    def generate(self, prompt: Tokens, count: int) -> Generation:
        """Continue greedily from an empty cache; the times are those of ``llama_decode`` and of finding the largest logit."""
        import numpy as np

        self._check_length(len(prompt) + count)
        self._check_tokens(prompt)
        self._library.llama_memory_clear(self._memory, True)
        start = time.perf_counter()
        for begin in range(0, len(prompt), self._batch):
            part = prompt[begin : begin + self._batch]
            logits = self._decode(part, begin, last_only=True)
        ids = [int(np.argmax(logits[-1]))]
        first = time.perf_counter()
        while len(ids) < count and not self._library.llama_vocab_is_eog(self._vocab, ids[-1]):
            logits = self._decode(np.asarray(ids[-1:]), len(prompt) + len(ids) - 1, last_only=True)
            ids.append(int(np.argmax(logits[-1])))
        return Generation(tuple(ids), first - start, time.perf_counter() - first)

    def tokenize(self, text: str) -> list[int]:
        """Return tokens as llama-server's ``/completion`` has them: special tokens are read, and the start token is added."""
        data = text.encode()
        room = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = self._library.llama_tokenize(self._vocab, data, len(data), tokens, room, True, True)
            if count >= 0:
                return list(tokens[:count])
            room = -count

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return text without special tokens; bytes that are no UTF-8 become U+FFFD."""
        import numpy as np

        self._check_tokens(np.asarray(ids, np.int64))
        if ids and ids[0] == self._library.llama_vocab_bos(self._vocab):
            ids = ids[1:]  # else the space that SentencePiece puts before a text would stay
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        room = 16 * len(ids) + 16
        while True:
            text = ctypes.create_string_buffer(room)
            count = self._library.llama_detokenize(self._vocab, tokens, len(ids), text, room, True, False)
            if count >= 0:
                return text.raw[:count].decode(errors="replace")
            room = -count

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Ask llama-server's ``/apply-template``, which renders the template of the GGUF with llama.cpp's own Jinja.

        It leaves out a start token that :meth:`tokenize` puts there.
        """
        self._templates = self._templates or TemplateServer(self._path, self._gguf)
        return self._templates.render(messages)

    def evidence(self) -> dict[str, Any]:
        """Return processor features of the kernels, types of the weights and what inputs are rounded to beside them."""
        types = collections.Counter(tensor.type for tensor in self._gguf.tensors.values() if len(tensor.shape) > 1)
        features = self._library.llama_print_system_info().decode()
        used = [part.split("=")[0].strip() for part in features.replace("CPU :", "").split("|") if part.strip().endswith("= 1")]
        log = "".join(self._library.log)
        precision = {
            name: f"{name} x {self._library.dot_type(TENSOR_TYPES[name.lower()])}"
            for name in types
            if name.lower() in TENSOR_TYPES
        }
        return {
            "kernels": f"ggml-cpu {' '.join(used)}" + (", weights repacked" if _REPACKED in log else ""),
            "precision": ", ".join(sorted(precision.values())),
            "tensor_types": dict(sorted(types.items())),
            "file_type": self._gguf.file_type,
            "bits_per_weight": round(self._gguf.bits_per_weight, 4),
            "cache_type": self._runtime.cache_type,
            "versions": {"xllamacpp": self._library.version},
            "vocabulary": self._vocabulary,
        }

    def _context_params(self) -> Any:
        params = self._library.llama_context_default_params()
        params.n_ctx = self._runtime.context
        params.n_batch = params.n_ubatch = params.n_outputs_max = params.n_outputs_max_per_seq = self._batch
        params.n_threads = params.n_threads_batch = self._runtime.threads
        params.flash_attn_type = FLASH_ATTENTION_AUTO
        params.type_k = params.type_v = TENSOR_TYPES[self._runtime.cache_type]
        return params

    def _check_length(self, tokens: int) -> None:
        if tokens > self._runtime.context:
            raise UserError(f"{tokens} tokens are more than the context of {self._runtime.context}", "ask for a longer context")

    def _check_tokens(self, tokens: Tokens) -> None:
        if len(wrong := tokens[(tokens < 0) | (tokens >= self._vocabulary)]):
            raise UserError(f"token {int(wrong[0])} is not in the vocabulary of {self._vocabulary}", "use this model's tokens")

    def _score(self, window: Tokens, top: int) -> TokenScores:
        import numpy as np

        self._check_length(len(window))
        self._check_tokens(window)
        self._library.llama_memory_clear(self._memory, True)
        parts = [_log_probabilities(logits, target, top) for logits, target in self._positions(window)]
        return TokenScores(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _positions(self, window: Tokens) -> Iterator[tuple[Logits, Tokens]]:
        """Yield logits [m, vocabulary] of some positions, with the tokens that follow them; the last token asks for nothing."""
        for begin in range(0, len(window) - 1, self._batch):
            part = window[:-1][begin : begin + self._batch]
            yield self._decode(part, begin), window[begin + 1 : begin + 1 + len(part)]

    def _decode(self, tokens: Tokens, position: int, *, last_only: bool = False) -> Logits:
        """Run tokens from a position on; return logits [m, vocabulary], which the next call overwrites."""
        import numpy as np

        batch = Batch.of(tokens.tolist(), position, last_only=last_only)
        if code := self._library.llama_decode(self._context, batch):
            raise CandidateRejectedError(Rejection.FAILED, f"llama_decode returns {code}: {self._library.reasons()}")
        logits = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, shape=(1 if last_only else len(tokens), self._vocabulary))


def _log_probabilities(
    logits: Logits, targets: Tokens, top: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Log-softmax over all of the vocabulary: of the targets [m], and the ``top`` largest [m, top]."""
    import numpy as np

    top = min(top, logits.shape[1])
    largest = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(axis=1, dtype=np.float64)) + largest[:, 0]
    rows = np.arange(len(logits))[:, None]
    columns = np.argpartition(logits, -top, axis=1)[:, -top:] if top else np.zeros((len(logits), 0), np.int64)
    columns = np.take_along_axis(columns, np.argsort(-logits[rows, columns], axis=1, kind="stable"), axis=1)
    return (
        (logits[rows[:, 0], targets] - total).astype(np.float32),
        columns.astype(np.int32),
        (logits[rows, columns] - total[:, None]).astype(np.float32),
    )
