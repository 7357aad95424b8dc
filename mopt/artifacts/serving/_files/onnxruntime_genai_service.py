"""A model of ONNX Runtime GenAI, served with OpenAI's protocol.

mopt copies this file as service.py beside openai_protocol.py and settings.json.
"""

from __future__ import annotations

__all__ = ["OnnxEngine"]

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai
from openai_protocol import Sampling, serve


class OnnxEngine:
    """The library's own generator.

    Args:
        settings: ``name``, ``context``, ``threads`` and ``chat``.
        folder: Of the model.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self.name, self._chat = str(settings["name"]), bool(settings["chat"])
        about = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self.context = min(int(settings["context"]), int(about["context_length"]))
        self.vocabulary = int(about["vocab_size"])
        ends = about["eos_token_id"]
        self.ends = frozenset(ends if isinstance(ends, list) else [ends])
        config = onnxruntime_genai.Config(str(folder))
        threads = {"intra_op_num_threads": int(settings["threads"]), "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = onnxruntime_genai.Model(config)
        # Two of them: a text gets the start token that a template brings by itself.
        self._tokenizer, self._plain = onnxruntime_genai.Tokenizer(self._model), onnxruntime_genai.Tokenizer(self._model)
        self._tokenizer.update_options(add_special_tokens="true")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a chat."""
        if not self._chat:
            raise ValueError("the model has no chat template: use /v1/completions")
        plain = json.dumps([dict(message) for message in messages], ensure_ascii=False)
        try:
            text = self._plain.apply_chat_template(messages=plain, add_generation_prompt=True)
        except RuntimeError as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from None
        return [int(token) for token in self._plain.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self._tokenizer.decode(np.asarray(ids, np.int32))) if len(ids) else ""

    def generate(self, prompt: Sequence[int], count: int, sampling: Sampling, emit: Callable[[int], bool]) -> None:
        """Hand tokens over as they are made."""
        options: dict[str, Any] = {
            "max_length": len(prompt) + count, "min_length": 0, "num_beams": 1, "num_return_sequences": 1,
            "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "do_sample": sampling.temperature > 0,
        }  # fmt: skip
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0, "random_seed": sampling.seed}
        parameters = onnxruntime_genai.GeneratorParams(self._model)
        parameters.set_search_options(**options)
        generator = onnxruntime_genai.Generator(self._model, parameters)
        generator.append_tokens(np.asarray(prompt, np.int32))
        for _ in range(count):
            generator.generate_next_token()
            if not emit(int(generator.get_next_tokens()[0])) or generator.is_done():
                return


if __name__ == "__main__":
    serve(OnnxEngine, Path(__file__).parent)
