from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, MoptError, NotApplicableError
from mopt.model.files import Model
from mopt.passes.language.export_gguf import ExportGguf
from mopt.passes.language.quantize_gguf import QuantizeGguf
from mopt.runtimes.language._base import LanguageProcess, make_language_runtime
from mopt.runtimes.language.llama_cpp import LlamaCpp, _log_probabilities
from mopt.runtimes.language.transformers import Transformers
from tests.gguf_files import LLAMA, write_gguf
from tests.gguf_models import MODEL, apply, exported
from tests.language_models import TinyModel, vocabulary
from tests.servers import missing

real = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.skipif(bool(missing("llama_cpp")), reason=missing("llama_cpp")),
    pytest.mark.skipif(bool(missing("llm_compressor")), reason=missing("llm_compressor")),
]
WINDOW = np.random.default_rng(1).integers(3, 300, 150)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the of and"}]


def test_log_probabilities_are_over_the_whole_vocabulary() -> None:
    logits = np.random.default_rng(0).normal(0, 20, (7, 50)).astype(np.float32)
    targets = np.arange(7)
    logprob, ids, largest = _log_probabilities(logits, targets, 4)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    assert logprob == pytest.approx(exact[targets, targets], abs=1e-5)
    assert np.array_equal(ids, np.argsort(-exact, axis=1)[:, :4])
    assert largest == pytest.approx(-np.sort(-exact, axis=1)[:, :4], abs=1e-5)
    assert _log_probabilities(logits, targets, 0)[1].shape == (7, 0)
    assert _log_probabilities(logits, targets, 99)[1].shape == (7, 50)


def test_it_is_found_by_its_name() -> None:
    runtime = make_language_runtime("llama_cpp", {"threads": 2, "cache_type": "q8_0"})
    assert runtime == LlamaCpp(threads=2, cache_type="q8_0")
    assert runtime.key()["fields"]["cache_type"] == "q8_0"


@pytest.fixture(scope="module")
def process() -> Iterator[LanguageProcess]:
    with LanguageProcess(LlamaCpp(threads=2, context=256), Model.at("gguf", exported()[1])) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference() -> Iterator[LanguageProcess]:
    with LanguageProcess(Transformers(threads=2, context=256), Model.at("huggingface", exported()[0])) as opened:
        yield opened


def _marked(test: object) -> object:
    for mark in real:
        test = mark(test)  # type: ignore[operator]
    return test


@_marked
def test_it_says_what_transformers_says(process: LanguageProcess, reference: LanguageProcess) -> None:
    windows = [WINDOW, WINDOW[:2], WINDOW[40:90]]
    for given, expected in zip(process.score(windows, 3), reference.score(windows, 3), strict=True):
        # Inputs of each layer and what is kept of them are rounded to float16, and log probabilities here go down to -30.
        error = np.abs(given.logprob - expected.logprob)
        assert error.max() < 3e-2
        assert error.mean() < 1e-2
        assert np.mean(given.top_ids[:, 0] == expected.top_ids[:, 0]) > 0.98
    assert process.tokenize("the of and, x é") == reference.tokenize("the of and, x é")
    # llama-server leaves the start token to the tokenizer, which puts it before every prompt.
    assert "<s>" + process.render(CHAT) == reference.render(CHAT)


@_marked
def test_it_answers_as_transformers_does(process: LanguageProcess, reference: LanguageProcess) -> None:
    prompt = np.array(process.tokenize("the of and to"))
    answer = process.generate(prompt, 6)
    assert answer.ids == reference.generate(prompt, 6).ids
    assert process.generate(prompt, 6).ids == answer.ids, "no cache is left"
    assert answer.first_seconds > 0
    assert answer.rest_seconds > 0


@_marked
def test_windows_do_not_know_of_each_other(process: LanguageProcess) -> None:
    first, again = process.score([WINDOW, WINDOW], 1)
    (alone,) = process.score([WINDOW[:50]], 1)
    assert np.array_equal(first.logprob, again.logprob)
    assert alone.logprob == pytest.approx(first.logprob[:49], abs=1e-2, rel=3e-3)


@_marked
def test_text_comes_back(process: LanguageProcess) -> None:
    text = "the of and 123, é 日本"
    ids = process.tokenize(text)
    assert ids[0] == 1, "llama-server puts the start token first"
    assert process.detokenize(ids) == text
    assert process.tokenize("</s>the")[1] == 2, "special tokens are read"


@_marked
def test_what_is_executed(process: LanguageProcess) -> None:
    evidence = process.evidence()
    assert evidence["vocabulary"] == len(vocabulary())
    assert "AVX2" in evidence["kernels"] or "NEON" in evidence["kernels"]
    assert evidence["tensor_types"] == {"F16": 7 * MODEL.layers + 2}
    assert evidence["cache_type"] == "f16"
    assert "11549" in evidence["versions"]["xllamacpp"]


@_marked
def test_what_cannot_be_asked(process: LanguageProcess) -> None:
    with pytest.raises(MoptError, match="more than the context"):
        process.score([np.zeros(300, np.int64) + 5], 1)
    with pytest.raises(MoptError, match="not in the vocabulary"):
        process.score([np.array([1, 10_000])], 1)
    with pytest.raises(MoptError, match="not in the vocabulary"):
        process.detokenize([-1])


@_marked
def test_quantized_layers_say_what_multiplies_them(tmp_path: Path) -> None:
    apply(QuantizeGguf(type="q4_k_m"), Model.at("gguf", exported()[1]), tmp_path / "model")
    with LanguageProcess(LlamaCpp(threads=1, context=64, cache_type="q8_0"), Model.at("gguf", tmp_path / "model")) as process:
        evidence = process.evidence()
        assert "Q4_K x q8_K" in evidence["precision"]
        assert evidence["file_type"] == "Q4_K_M"
        assert np.isfinite(process.score([WINDOW[:40]], 1)[0].logprob).all()


@_marked
def test_a_model_without_a_template_renders_nothing(tmp_path: Path) -> None:
    source = TinyModel(layers=1, template=False).write(tmp_path / "source")
    apply(ExportGguf(), Model.at("huggingface", source), tmp_path / "model")
    with (
        LanguageProcess(LlamaCpp(threads=1, context=64), Model.at("gguf", tmp_path / "model")) as process,
        pytest.raises(NotApplicableError, match="no chat template"),
    ):
        process.render(CHAT)


@_marked
def test_what_llama_cpp_cannot_load_is_rejected(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model" / "model.gguf", {**LLAMA, "general.architecture": "unheard-of"})
    with pytest.raises(CandidateRejectedError, match="unknown model architecture"):
        LanguageProcess(LlamaCpp(threads=1), Model.at("gguf", tmp_path / "model"))
