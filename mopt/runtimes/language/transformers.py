"""The unquantized checkpoint in float32: the reference, for a model that need not fit into the memory."""

from __future__ import annotations

__all__ = ["Transformers"]

import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import NotApplicableError, UserError
from mopt.model.checkpoint import open_checkpoint
from mopt.model.stop_tokens import stop_tokens
from mopt.runtimes.language._base import Generation, LanguageRuntime, LanguageSession, TokenScores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_FLOAT_BYTES = 4
_SPARE = 1.3
"""How much more than its weights a model takes while it runs."""
_BATCH_TOKENS = 4096
"""That go through a block together."""
_LOGIT_NUMBERS = 32_000_000
"""Logits that are computed at a time: 128 MB."""
_HELD_BYTES = 1 << 30
"""Hidden states that are held in memory; more than these lie on disk."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformers(LanguageRuntime):
    """Transformers and torch on the CPU, in float32 whatever the checkpoint is in.

    A model that does not fit into the free memory is scored block by block: each block is read once for all windows. It is also
    generated with block by block, which reads the whole model for each token: slow, and right.

    Attributes:
        stream: Block by block even where the model would fit.
    """

    formats: ClassVar[tuple[str, ...]] = ("huggingface",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers")
    tools: ClassVar[str] = "llm_compressor"

    stream: bool = False

    def environment(self) -> dict[str, str]:
        """Give freed weights back to the system at once, and read one tensor at a time."""
        return {**super().environment(), "MALLOC_MMAP_THRESHOLD_": "4194304", "HF_DEACTIVATE_ASYNC_LOAD": "1"}

    def open(self, folder: Path) -> LanguageSession:
        """Build the architecture; weights are read when they are needed."""
        import torch

        torch.set_num_threads(self.threads)
        return _Session(folder, stream=self.stream)


class _Session(LanguageSession):
    def __init__(self, folder: Path, *, stream: bool) -> None:
        import psutil

        from mopt.model._blocks import BlockedModel

        self._folder = folder
        self._model = BlockedModel.open(open_checkpoint(folder))
        if self._model.unused:
            names = ", ".join(self._model.unused[:3])
            raise UserError(
                f"{folder} holds {len(self._model.unused)} tensors that {self._model.checkpoint.architecture} "
                f"has no place for: {names}",
                "the weights and the configuration are not of one model",
            )
        needed = self._model.checkpoint.parameters * _FLOAT_BYTES * _SPARE
        self._whole = None if stream or needed > psutil.virtual_memory().available else self._model.load_all()

    def score(self, windows: Sequence[Tokens], top: int) -> list[TokenScores]:
        import numpy as np
        import torch

        batches = _batches(windows)
        results: dict[int, TokenScores] = {}
        with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            flows = _Flows(Path(folder), sum(map(len, windows)) * self._width * _FLOAT_BYTES <= _HELD_BYTES)
            self._stream(batches, windows, flows)
            for number, positions in enumerate(batches):
                ids = np.stack([windows[position] for position in positions]).astype(np.int64)
                results.update(zip(positions, self._scores(flows.take(number), ids, top), strict=True))
        return [results[position] for position in range(len(windows))]

    def generate(self, prompt: Tokens, count: int) -> Generation:
        import torch

        ids: list[int] = []
        times = [time.perf_counter()]
        ends = set(stop_tokens(self._folder))
        cache: Any = None
        with torch.inference_mode():
            while len(ids) < count and not (ids and ids[-1] in ends):
                if self._whole is None:
                    logits = self._last_logits([*prompt, *ids])
                else:
                    fresh = torch.tensor([[*prompt] if not ids else ids[-1:]])
                    answer = self._whole(input_ids=fresh, past_key_values=cache, use_cache=True)
                    cache, logits = getattr(answer, "past_key_values", None), answer.logits[0, -1]
                    if cache is None:  # a model without a cache of this kind starts from the beginning each time
                        logits = self._whole(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1]
                ids.append(int(logits.argmax()))
                times.append(time.perf_counter())
        return Generation(tuple(ids), times[min(1, len(ids))] - times[0], times[-1] - times[min(1, len(ids))])

    def tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer(text).input_ids]

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if not self._tokenizer.chat_template:
            raise NotApplicableError(f"{self._folder} has no chat template")
        import jinja2

        chat = [dict(message) for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        except jinja2.TemplateError as error:
            raise NotApplicableError(f"the chat template refuses this chat: {error}") from None

    def evidence(self) -> dict[str, Any]:
        import torch
        import transformers

        return {
            "kernels": type(self._model.module).__name__,
            "precision": "float32",
            "block by block": self._whole is None,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "vocabulary": self._model.module.get_output_embeddings().weight.shape[0],
        }

    @functools.cached_property
    def _tokenizer(self) -> Any:
        import transformers

        return transformers.AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)

    @property
    def _width(self) -> int:
        return int(self._model.module.config.get_text_config().hidden_size)

    def _stream(self, batches: Sequence[Sequence[int]], windows: Sequence[Tokens], flows: _Flows) -> None:
        """Take all batches through all blocks."""
        import numpy as np
        import torch

        model, streamed = self._model, self._whole is None
        if streamed:
            model.load_inputs()
        for number, positions in enumerate(batches):
            flows.put(
                number, model.begin(torch.from_numpy(np.stack([windows[position] for position in positions]).astype(np.int64)))
            )
        if streamed:
            model.release_inputs()
        for index in range(len(model.blocks)):
            if streamed:
                model.load_block(index)
            for number in range(len(batches)):
                flows.put(number, model.run(index, flows.take(number)))
            if streamed:
                model.release_block(index)
        if streamed:
            model.load_outputs()

    def _scores(self, flow: Any, ids: Tokens, top: int) -> list[TokenScores]:
        """Return what the model says of the windows of a batch, shape [batch, n]."""
        import torch

        batch, count = ids.shape[0], ids.shape[1] - 1
        vocabulary = self._model.module.get_output_embeddings().weight.shape[0]
        step, kept = max(1, _LOGIT_NUMBERS // (vocabulary * batch)), min(top, vocabulary)
        targets = torch.from_numpy(ids[:, 1:])
        parts = []
        for begin in range(0, count, step):
            end = min(begin + step, count)
            logprobs = torch.log_softmax(self._model.end(flow, slice(begin, end)).float(), dim=-1)
            likeliest = logprobs.topk(kept, dim=-1)
            chosen = logprobs.gather(2, targets[:, begin:end, None])[:, :, 0]
            parts.append((chosen, likeliest.indices.to(torch.int32), likeliest.values))
        columns = [torch.cat(column, dim=1).numpy() for column in zip(*parts, strict=True)]
        return [TokenScores(*(column[row] for column in columns)) for row in range(batch)]

    def _last_logits(self, ids: Sequence[int]) -> Any:
        import numpy as np

        windows = [np.asarray(ids, np.int64)]
        with tempfile.TemporaryDirectory() as folder:
            flows = _Flows(Path(folder), True)
            self._stream([[0]], windows, flows)
            return self._model.end(flows.take(0), slice(len(ids) - 1, len(ids)))[0, -1]


class _Flows:
    """Batches on their way; hidden states that are too many for the memory lie on disk."""

    def __init__(self, folder: Path, held: bool) -> None:
        self._folder = folder
        self._held = held
        self._flows: dict[int, Any] = {}
        self._pool: list[Any] = []

    def put(self, number: int, flow: Any) -> None:
        import torch

        if number not in self._flows:
            flow = dataclasses.replace(flow, arguments=self._shared(flow.arguments))
        if not self._held:
            torch.save(flow.hidden.clone(), self._folder / f"{number}.pt")
            flow = dataclasses.replace(flow, hidden=None)
        self._flows[number] = flow

    def take(self, number: int) -> Any:
        import torch

        flow = self._flows[number]
        if self._held:
            return flow
        return dataclasses.replace(flow, hidden=torch.load(self._folder / f"{number}.pt", weights_only=True))

    def _shared(self, value: Any) -> Any:
        """Return the same arguments with tensors that are equal kept once: masks and positions are those of other batches."""
        import torch

        if isinstance(value, torch.Tensor):
            for known in self._pool:
                if known.shape == value.shape and known.dtype == value.dtype and torch.equal(known, value):
                    return known
            self._pool.append(value)
            return value
        if type(value) in (tuple, list):
            return type(value)(self._shared(entry) for entry in value)
        if type(value) is dict:
            return {name: self._shared(entry) for name, entry in value.items()}
        return value


def _batches(windows: Sequence[Tokens]) -> list[list[int]]:
    """Return positions of windows that go together: of one length, and not too many tokens."""
    by_length: dict[int, list[int]] = {}
    for position, window in enumerate(windows):
        by_length.setdefault(len(window), []).append(position)
    return [batch for length, positions in by_length.items() for batch in _chunks(positions, max(1, _BATCH_TOKENS // length))]


def _chunks(positions: list[int], size: int) -> Iterator[list[int]]:
    for begin in range(0, len(positions), size):
        yield positions[begin : begin + size]
