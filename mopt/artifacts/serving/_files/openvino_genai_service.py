"""A model of OpenVINO GenAI, served with OpenAI's protocol.

mopt copies this file as service.py beside openai_protocol.py and settings.json.
"""

from __future__ import annotations

__all__ = ["OpenvinoEngine"]

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openai_protocol import Sampling, serve


class OpenvinoEngine:
    """The library's own pipeline.

    Args:
        settings: ``name``, ``context``, ``threads``, ``chat`` and ``properties`` of OpenVINO's CPU plugin.
        folder: Of the model.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self.name, self._chat = str(settings["name"]), bool(settings["chat"])
        self.context = int(settings["context"])
        self._tokenizer = openvino_genai.Tokenizer(str(folder))
        plugin = {**settings["properties"], "INFERENCE_NUM_THREADS": int(settings["threads"])}
        self._pipeline = openvino_genai.LLMPipeline(str(folder), self._tokenizer, "CPU", **plugin)
        config = self._pipeline.get_generation_config()
        self.ends = frozenset({config.eos_token_id, *config.stop_token_ids} - {-1})
        self.vocabulary = len(self._tokenizer.get_vocab())

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self._tokens(text, special=True)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a chat; its start token is the template's."""
        if not self._chat:
            raise ValueError("the model has no chat template: use /v1/completions")
        try:
            text = self._tokenizer.apply_chat_template([dict(message) for message in messages], add_generation_prompt=True)
        except RuntimeError as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from None
        return self._tokens(text, special=False)

    def _tokens(self, text: str, *, special: bool) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=special).input_ids.data[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)) if len(ids) else ""

    def generate(self, prompt: Sequence[int], count: int, sampling: Sampling, emit: Callable[[int], bool]) -> None:
        """Hand tokens over as they are made."""
        config = self._pipeline.get_generation_config()
        config.max_new_tokens, config.min_new_tokens = count, 0
        config.num_beams, config.repetition_penalty, config.apply_chat_template = 1, 1.0, False
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p = sampling.temperature, sampling.top_p
            config.top_k, config.rng_seed = self.vocabulary, sampling.seed
        tokens = openvino.Tensor(np.asarray(prompt, np.int64)[None])
        self._pipeline.generate(tokens, config, _Streamer(emit))


class _Streamer(openvino_genai.StreamerBase):
    """Hands each token on.

    Args:
        emit: Takes it, and says whether to go on.
    """

    def __init__(self, emit: Callable[[int], bool]) -> None:
        super().__init__()
        self._emit = emit

    def write(self, token: int | Sequence[int]) -> Any:
        """Take one token, or several at once."""
        tokens = [token] if isinstance(token, int) else list(token)
        go_on = all(self._emit(int(each)) for each in tokens)
        return openvino_genai.StreamingStatus.RUNNING if go_on else openvino_genai.StreamingStatus.STOP

    def end(self) -> None:
        """Nothing is held back."""


if __name__ == "__main__":
    serve(OpenvinoEngine, Path(__file__).parent)
