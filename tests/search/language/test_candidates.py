"""Which candidates there are, for which servers, and which are refused before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.artifacts.serving.language._base import make_language_serving
from mopt.errors import Rejection, UserError
from mopt.model.tokens import TokenWindows, write_windows
from mopt.recipe import Language
from mopt.search.language.candidates import language_candidates
from mopt.search.language.spaces._base import LanguageSpaceInputs


@pytest.fixture
def windows(tmp_path: Path) -> TokenWindows:
    return write_windows(tmp_path, np.zeros((2, 8), np.int32))


def _inputs(windows: TokenWindows, *systems: str, **changes: object) -> LanguageSpaceInputs:
    fields = {
        "format": "huggingface", "architecture": "LlamaForCausalLM", "windows": windows, "threads": 2, "context": 512,
        "options": Language(), "systems": [make_language_serving(name) for name in systems], "isa": ("avx2",), "chat": True,
    }  # fmt: skip
    return LanguageSpaceInputs(**(fields | changes))  # type: ignore[arg-type]


def test_every_runtime_has_an_unquantized_candidate_and_quantized_ones(windows: TokenWindows) -> None:
    candidates = language_candidates(_inputs(windows), ("*",), "thorough")
    runtimes = {candidate.runtime.name for candidate in candidates}
    assert runtimes == {"llama_cpp", "vllm", "onnxruntime_genai", "openvino_genai"}
    for runtime in runtimes:
        assert {candidate.unquantized for candidate in candidates if candidate.runtime.name == runtime} == {True, False}
    assert len({candidate.name for candidate in candidates}) == len(candidates)


def test_less_effort_is_a_part_of_more(windows: TokenWindows) -> None:
    quick, thorough = (
        {candidate.name for candidate in language_candidates(_inputs(windows), ("*",), effort)}
        for effort in ("quick", "thorough")  # type: ignore[arg-type]
    )
    assert quick < thorough
    named = language_candidates(_inputs(windows), ("llama_cpp-q3_k_m",), "quick")
    assert [candidate.name for candidate in named] == ["llama_cpp-q3_k_m"]


def test_a_server_takes_what_it_loads_alone_and_two_may_have_nothing_in_common(windows: TokenWindows) -> None:
    for name, runtime in (("ollama", "llama_cpp"), ("lmdeploy", "vllm"), ("openvino_genai", "openvino_genai")):
        candidates = language_candidates(_inputs(windows, name), ("*",), "thorough")
        assert {candidate.runtime.name for candidate in candidates} == {runtime}
    with pytest.raises(UserError, match="no format is served by all of vllm, llama_cpp"):
        language_candidates(_inputs(windows, "vllm", "llama_cpp"), ("*",), "quick")


def test_tensorrt_llm_has_its_own_packing_scored_as_another_one(windows: TokenWindows) -> None:
    candidates = language_candidates(_inputs(windows, "tensorrt_llm"), ("*",), "thorough")
    packed = [candidate for candidate in candidates if candidate.method == "modelopt"]
    assert packed
    for candidate in packed:
        assert candidate.scored_passes is not None
        assert candidate.scored_passes[:-1] == candidate.passes[:-1]


def test_an_architecture_that_a_named_server_does_not_know_is_refused_before_any_work(windows: TokenWindows) -> None:
    candidates = language_candidates(_inputs(windows, "vllm", architecture="NobodyForCausalLM"), ("*",), "quick")
    assert candidates
    for candidate in candidates:
        assert candidate.refused is not None
        assert candidate.refused.rejection == Rejection.UNSUPPORTED
        assert "NobodyForCausalLM" in candidate.refused.reason


def test_what_is_not_installed_is_skipped_with_the_line_that_installs_it(
    windows: TokenWindows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "none"))
    for candidate in language_candidates(_inputs(windows), ("*",), "quick"):
        assert candidate.refused is not None
        assert "mopt tools install" in candidate.refused.reason


def test_an_unknown_pattern_names_the_nearest_candidate(windows: TokenWindows) -> None:
    with pytest.raises(UserError, match="no candidate is called llama_cpp-q5"):
        language_candidates(_inputs(windows), ("llama_cpp-q5",), "quick")


def test_a_gguf_is_quantized_in_llama_cpp_alone(windows: TokenWindows) -> None:
    candidates = language_candidates(_inputs(windows, format="gguf", architecture="llama"), ("*",), "quick")
    assert {candidate.runtime.name for candidate in candidates} == {"llama_cpp"}
    assert candidates[0].name == "llama_cpp-source"
    assert candidates[0].passes == ()


def test_a_mixture_of_widths_is_a_candidate_with_its_layers(windows: TokenWindows) -> None:
    layers = (("model.layers.0.mlp.down_proj", 8, 128),)
    candidates = language_candidates(_inputs(windows, mixes=((5.0, layers),)), ("vllm-mixed-5",), "quick")
    assert candidates[0].passes[0].layers == layers  # type: ignore[attr-defined]
