"""What NNCF makes, and what our own codes become."""

from pathlib import Path

from mopt.search.language.spaces.openvino_genai import OpenvinoGenaiSpace
from tests.search.language.spaces.inputs import space_inputs


def test_four_bits_are_chosen_on_real_text(tmp_path: Path) -> None:
    inputs = space_inputs(tmp_path)
    candidates = {each.detail: each for each in OpenvinoGenaiSpace().candidates(inputs)}
    assert set(candidates) >= {"source", "int8", "int4", "int4-gptq"}
    assert candidates["int4"].passes[0].windows == inputs.windows  # type: ignore[attr-defined]
    quantize, export = candidates["int4-gptq"].passes
    assert (quantize.makes, export.takes, export.makes) == ("quantized", "quantized", "openvino_genai")
    assert list(OpenvinoGenaiSpace().candidates(space_inputs(tmp_path, format="gguf"))) == []
