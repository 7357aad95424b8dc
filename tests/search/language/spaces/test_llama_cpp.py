"""GGUF of several types."""

from pathlib import Path

from mopt.recipe import Language
from mopt.search.language.spaces.llama_cpp import LlamaCppSpace
from tests.search.language.spaces.inputs import space_inputs


def test_types_of_few_bits_see_what_matters_and_q8_0_does_not_need_to(tmp_path: Path) -> None:
    steps = {each.detail: [step.name for step in each.passes] for each in LlamaCppSpace().candidates(space_inputs(tmp_path))}
    assert steps["BF16"] == ["export_gguf"]
    assert steps["Q8_0"] == ["export_gguf", "quantize_gguf"]
    assert steps["Q4_K_M"] == ["export_gguf", "observe_imatrix", "quantize_gguf"]


def test_codes_of_ours_are_in_groups_that_are_blocks(tmp_path: Path) -> None:
    inputs = space_inputs(tmp_path)
    by_name = {each.name: each for each in LlamaCppSpace().candidates(inputs)}
    for name in ("llama_cpp-q4_0-gptq", "llama_cpp-q4_0-autoround"):
        quantize, export, pack = by_name[name].passes
        assert (quantize.group_size, quantize.windows) == (32, inputs.windows)  # type: ignore[attr-defined]
        assert (export.name, pack.name, pack.type) == ("export_gguf_codes", "quantize_gguf", "q4_0")  # type: ignore[attr-defined]
    assert not any("gptq" in each.name for each in LlamaCppSpace().candidates(space_inputs(tmp_path, format="gguf")))


def test_the_cache_is_of_the_type_that_was_asked_for(tmp_path: Path) -> None:
    first = next(iter(LlamaCppSpace().candidates(space_inputs(tmp_path, options=Language(kv_cache="int8")))))
    assert first.runtime.cache_type == "q8_0"  # type: ignore[attr-defined]
