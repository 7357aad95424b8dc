"""What a language model is, without running it."""

from pathlib import Path

from mopt.workflows.language.inspect import inspect_language
from tests.gguf_files import LLAMA, write_gguf


def test_a_gguf_tells_its_types(tmp_path: Path) -> None:
    described = inspect_language(write_gguf(tmp_path / "m.gguf", LLAMA))
    assert described.format == "gguf"
    assert described.producer.startswith("llama")
    assert sum(size for _, size in described.weights.values()) <= described.size_bytes
