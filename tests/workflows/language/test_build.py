"""A language model from a folder to a server that streams, on what ``mopt tools install llm_compressor llama_cpp`` brings."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest

from mopt.artifacts.language import LanguageArtifact
from mopt.errors import UserError
from mopt.recipe import Recipe, make_recipe
from mopt.system.environments import find_environment
from mopt.system.store import Store
from mopt.workflows import any_model
from tests.language_faults import plant
from tests.language_models import TinyModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.skipif(
        find_environment("llm_compressor") is None or find_environment("llama_cpp") is None,
        reason="mopt tools install llm_compressor llama_cpp",
    ),
]

_FOLDER = tempfile.TemporaryDirectory(prefix="mopt-language-build-")
_MODEL = TinyModel(hidden=256, inner=512, heads=4, groups=2)


def _recipe(root: Path, **changes: object) -> Recipe:
    values = {
        "model": str(root / "model"), "data": str(root / "texts"), "tolerance": "20%", "serve": ["llama_cpp"],
        "objective": "size",
        "search": {"effort": "quick"}, "language": {"tokens": 2000, "window": 64, "prompt": 32, "answer": 12, "context": 128},
    }  # fmt: skip
    return make_recipe(values | changes)


@functools.cache
def _root() -> Path:
    root = Path(_FOLDER.name)
    _MODEL.write(root / "model")
    (root / "texts").mkdir()
    for index in range(30):
        words = [f"word{(index * 7 + step * step) % 97}" for step in range(160)]
        (root / "texts" / f"{index}.txt").write_text(" ".join(words))
    return root


@functools.cache
def _built() -> LanguageArtifact:
    root = _root()
    artifact = any_model.build(_recipe(root), out=root / "built.mopt", store=Store(root / "cache"))
    assert isinstance(artifact, LanguageArtifact)
    return artifact


def test_every_candidate_was_judged_against_the_unquantized_model_in_llama_cpp() -> None:
    trials = {trial.name: trial for trial in _built().manifest.trials}
    assert set(trials) == {"reference", "llama_cpp-bf16", "llama_cpp-q8_0", "llama_cpp-q4_k_m", "llama_cpp-q4_0-gptq"}
    reference = trials["reference"].text
    assert reference is not None
    for name in ("llama_cpp-bf16", "llama_cpp-q8_0"):
        text = trials[name].text
        assert text is not None
        assert text.log_loss == pytest.approx(reference.log_loss, rel=0.01)
        assert text.divergence is not None
        assert text.divergence.kl.value < 0.1
    bits = [trials[name].bits_per_weight for name in ("llama_cpp-bf16", "llama_cpp-q8_0", "llama_cpp-q4_k_m")]
    assert bits == sorted(bits, reverse=True)  # type: ignore[type-var]
    assert _built().manifest.expected is not None


def test_a_second_build_is_taken_from_the_cache() -> None:
    _built()
    again = any_model.build(_recipe(_root()), out=_root() / "again.mopt", store=Store(_root() / "cache"))
    assert again.cached


def test_the_artifact_answers_as_it_did_and_the_real_server_serves_it() -> None:
    folder = _built().folder
    verification = any_model.verify(folder)
    assert verification.ok, verification.problems
    served = any_model.verify_server(folder, "llama_cpp")
    states = {proof.part: proof.state for proof in served.proofs}
    assert served.ok, served.proofs
    assert served.started
    assert states["streaming"] == states["chat"] == states["bad requests"] == "proven"


@pytest.mark.parametrize("fault", ["scale-wrong", "template-lost", "tokenizer-foreign", "nibbles-swapped"])
def test_a_planted_fault_is_caught_although_every_digest_is_right(fault: str, tmp_path: Path) -> None:
    """As an export that is wrong would leave it: the manifest lists the digests of the broken files."""
    from mopt.artifacts.artifact import FILE_NAME
    from mopt.artifacts.bundle import copy_tree, file_digests

    copy = tmp_path / "broken.mopt"
    copy_tree(_built().folder, copy)
    plant(fault, _built().folder / "model", tmp_path / "planted")
    for path in (tmp_path / "planted").iterdir():
        if path.is_file():
            (copy / "model" / path.name).write_bytes(path.read_bytes())
    manifest = LanguageArtifact.read(copy).manifest
    (copy / FILE_NAME).unlink()
    digests = file_digests(copy)
    (copy / FILE_NAME).write_text(manifest.model_copy(update={"files": digests}).model_dump_json())
    verification = any_model.verify(copy)
    assert not verification.ok
    assert verification.problems
    if fault == "template-lost":
        served = any_model.verify_server(copy, "llama_cpp")
        assert {proof.part: proof.state for proof in served.proofs}["chat"] == "failed"


def test_a_gguf_is_a_source_too(tmp_path: Path) -> None:
    gguf = _built().folder / "model" / "model.gguf"
    recipe = _recipe(_root(), model=str(gguf), search={"effort": "quick", "candidates": ["llama_cpp-source", "llama_cpp-q8_0"]})
    artifact = any_model.build(recipe, out=tmp_path / "g.mopt", store=Store(_root() / "cache"))
    assert isinstance(artifact, LanguageArtifact)
    assert artifact.manifest.source.format == "gguf"
    assert gguf.is_file()


def test_the_gate_compares_the_artifact_with_its_source(tmp_path: Path) -> None:
    """Of 8 bits: what 4 bits leave of weights that nobody trained writes other texts than they do."""
    store = Store(_root() / "cache")
    only = _recipe(_root(), search={"effort": "quick", "candidates": ["llama_cpp-q8_0"]})
    artifact = any_model.build(only, out=tmp_path / "q8.mopt", store=store)
    recipe = _recipe(_root(), gate={"inconclusive": "accept"})
    verdict = any_model.run_gate(str(artifact.folder), str(_root() / "model"), recipe, speed=False, store=store)
    checks = {check.name: check for check in verdict.checks}
    assert checks["log_loss"].verdict == "pass"
    assert checks["writing"].verdict == "pass"
    assert verdict.fidelity["likeliest token the same"] > 0.9


def test_further_servers_are_packaged_and_what_cannot_load_it_is_refused(tmp_path: Path) -> None:
    packaged = any_model.package(_built().folder, ["ollama"], out=tmp_path / "p.mopt")
    assert (packaged.folder / "serving" / "ollama" / "Modelfile").is_file()
    with pytest.raises(UserError, match="vllm cannot serve this model"):
        any_model.package(_built().folder, ["vllm"], out=tmp_path / "q.mopt")


def test_the_plan_says_what_would_be_tried_and_what_it_takes() -> None:
    plan = any_model.explain_plan(_recipe(_root()), store=Store(_root() / "cache"))
    assert plan.expected.memory_bytes > 0  # type: ignore[union-attr]
    assert next(candidate.name for candidate in plan.candidates) == "llama_cpp-bf16"
