"""Algorithms, in the packing that the servers load."""

from pathlib import Path

from mopt.artifacts.serving.language._base import make_language_serving
from mopt.recipe import Language
from mopt.search.language.spaces.vllm import VllmSpace
from tests.search.language.spaces.inputs import space_inputs


def test_one_packing_is_loaded_by_all_named_servers(tmp_path: Path) -> None:
    both = [make_language_serving(name) for name in ("vllm", "lmdeploy")]
    methods = {each.method for each in VllmSpace().candidates(space_inputs(tmp_path, systems=both))} - {"none"}
    assert len(methods) == 1
    assert methods <= {*both[0].methods} & {*both[1].methods}


def test_layers_to_leave_and_the_cache_reach_every_pass(tmp_path: Path) -> None:
    options = Language(leave=("*.down_proj",), kv_cache="fp8")
    for candidate in VllmSpace().candidates(space_inputs(tmp_path, options=options)):
        for step in candidate.passes[:1]:
            assert step.leave == ("*.down_proj",)  # type: ignore[attr-defined]


def test_a_gguf_is_not_for_vllm(tmp_path: Path) -> None:
    assert list(VllmSpace().candidates(space_inputs(tmp_path, format="gguf"))) == []
