"""Blocks of 4 and 8 bits."""

from pathlib import Path

from mopt.search.language.spaces.onnxruntime_genai import OnnxruntimeGenaiSpace
from tests.search.language.spaces.inputs import space_inputs


def test_four_bits_are_multiplied_with_rounded_activations(tmp_path: Path) -> None:
    candidates = {each.detail: each for each in OnnxruntimeGenaiSpace().candidates(space_inputs(tmp_path))}
    assert set(candidates) >= {"fp32", "int8", "int4"}
    assert candidates["int4"].passes[0].accuracy_level == 4  # type: ignore[attr-defined]
    assert list(OnnxruntimeGenaiSpace().candidates(space_inputs(tmp_path, format="gguf"))) == []
