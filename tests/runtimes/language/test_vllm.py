import dataclasses
import json
import logging
import os
import shutil
import subprocess
import types

import numpy as np
import psutil
import pytest

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.checkpoint import open_checkpoint
from mopt.model.files import Model
from mopt.model.kv_cache import cache_bytes_per_token
from mopt.runtimes.language import vllm
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.vllm import Vllm
from mopt.system.environments import find_environment
from tests.language_models import TinyModel

ENVIRONMENT, COMPRESSOR = find_environment("vllm"), find_environment("llm_compressor")
real = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.skipif(ENVIRONMENT is None, reason="the environment vllm is not installed"),
]
CONTEXT = 256
WINDOWS = [np.random.default_rng(seed).integers(3, 600, size) for seed, size in enumerate((CONTEXT, 40, 2))]
PROMPTS = [[1, 300, 301], [1, 410], list(range(260, 300))]
REFERENCE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
windows, prompts = json.loads(sys.stdin.read())
scores, answers = [], []
with torch.inference_mode():
    for window in windows:
        logits = model(torch.tensor([window])).logits[0, :-1].float().log_softmax(-1)
        scores.append(logits.gather(1, torch.tensor(window[1:])[:, None])[:, 0].tolist())
    for prompt in prompts:
        ids = torch.tensor([prompt])
        ids = model.generate(ids, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(ids))
        answers.append(ids[0, len(prompt):].tolist())
print(json.dumps([scores, answers]))
"""
COMPRESS = """
import sys, torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
source, target, scheme = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
data = Dataset.from_list([{"input_ids": list(range(3, 67)), "attention_mask": [1] * 64}] * 2)
oneshot(model=model, dataset=data, recipe=QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"]),
        max_seq_length=64, num_calibration_samples=2)
model.save_pretrained(target, save_compressed=True)
"""


def checkpoint(tmp_path, **changes):
    return open_checkpoint(TinyModel(positions=CONTEXT, **changes).write(tmp_path / "model"))


def test_the_child_is_told_what_decides_the_numbers():
    variables = Vllm(threads=3).environment()
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["VLLM_CPU_INT4_W4A8"] == "0"
    assert variables["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert variables["VLLM_NO_USAGE_STATS"] == "1"
    assert variables["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in Vllm(threads=1, eager=False).environment()


def test_its_options_and_versions_are_its_key():
    key = Vllm(threads=1, kv_cache_dtype="fp8").key()
    assert key["runtime"] == "vllm"
    assert key["fields"] == {"threads": 1, "context": 2048, "eager": True, "kv_cache_dtype": "fp8"}
    assert key["libraries"].keys() == {"vllm-cpu", "torch", "transformers", "compressed-tensors"}


def test_the_cache_has_room_for_every_sequence_in_whole_blocks(tmp_path):
    model = checkpoint(tmp_path)
    tokens = 100_000
    blocks = -(-tokens // 128)
    assert vllm._cache_bytes(model, tokens) == cache_bytes_per_token(model) * 128 * (4 * blocks + 4)
    assert vllm._cache_bytes(model, 1) == 64 << 20
    single = dataclasses.replace(model, config={**model.config, "torch_dtype": "float32"})
    assert vllm._cache_bytes(single, tokens) == 2 * vllm._cache_bytes(model, tokens)


@pytest.mark.parametrize(
    ("named", "dtype"),
    [("float32", "float32"), ("torch.bfloat16", "bfloat16"), ("float8_e4m3fn", "auto"), (None, "auto")],
)
def test_a_model_is_computed_in_the_type_that_it_names(tmp_path, named, dtype):
    model = checkpoint(tmp_path)
    for key in ("torch_dtype", "dtype"):
        config = {name: value for name, value in model.config.items() if name != "torch_dtype"} | {key: named}
        assert vllm._dtype(dataclasses.replace(model, config=config)) == dtype


def test_scores_are_the_token_that_came_and_the_likeliest_ones():
    flat = types.SimpleNamespace(
        start_indices=[0, 0, 3], logprobs=[-1.0, -0.5, -2.0, -3.0, -0.25, -4.0], token_ids=[7, 5, 7, 8, 2, 9]
    )
    scores = vllm._scores(flat, 2)
    assert scores.logprob.tolist() == [-1.0, -3.0]
    assert scores.top_ids.tolist() == [[5, 7], [2, 9]]
    assert scores.top_logprobs.tolist() == [[-0.5, -2.0], [-0.25, -4.0]]


def test_what_the_log_says_of_kernels_is_kept_once(monkeypatch):
    before = logging.root.manager.disable  # libraries that configure logging switch others off
    monkeypatch.setattr(logging.getLogger("vllm"), "disabled", False)
    monkeypatch.setattr(logging.getLogger("vllm"), "level", logging.INFO)
    logging.disable(logging.NOTSET)
    lines = []
    with vllm._listen(lines):
        for text in ("Using  FooKernel for x", "Using FooKernel for x", "Loading weights", "Attention backend: A"):
            logging.getLogger("vllm").warning(text)
    logging.getLogger("vllm").warning("Using OtherKernel")
    logging.disable(before)
    assert lines == ["Using FooKernel for x", "Attention backend: A"]


def test_the_class_that_computes_a_layer_is_named_with_its_variant():
    kernel = type("CPUInt8Kernel", (), {"__module__": "vllm.model_executor.kernels.linear"})()
    kernel.linear_method = types.SimpleNamespace(__name__="_apply_weights_onednn")
    scheme = types.SimpleNamespace(kernel=kernel)
    assert vllm._kernel(types.SimpleNamespace(scheme=scheme), object()) == "CPUInt8Kernel (onednn)"
    plain = type("UnquantizedLinearMethod", (), {})()
    assert vllm._kernel(types.SimpleNamespace(), plain) == "UnquantizedLinearMethod"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return TinyModel(positions=CONTEXT).write(tmp_path_factory.mktemp("vllm") / "tiny")


def opened(folder, **changes):
    return LanguageProcess(Vllm(threads=2, **({"context": CONTEXT} | changes)), Model.at("huggingface", folder))


def _named(folder, target, dtype):
    """The same weights under a configuration that names another type."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}))
    return target


class TestReal:
    pytestmark = real

    @pytest.mark.parametrize(("dtype", "bound", "same"), [("float32", 2e-3, True), ("bfloat16", 0.6, False)])
    def test_unquantized_it_agrees_with_transformers(self, folder, tmp_path, dtype, bound, same):
        source = _named(folder, tmp_path / dtype, dtype)
        asked = json.dumps([[window.tolist() for window in WINDOWS], PROMPTS])
        command = [str(ENVIRONMENT.python), "-c", REFERENCE, str(source), dtype]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
        expected, answers = json.loads(done.stdout.splitlines()[-1])
        with opened(source) as process:
            scores = process.score(WINDOWS, 5)
            for score, reference in zip(scores, expected, strict=True):
                assert np.abs(score.logprob - np.asarray(reference)).max() < bound
                assert score.top_ids.shape == score.top_logprobs.shape == (len(reference), 5)
                assert (np.diff(score.top_logprobs, axis=1) <= 0).all()
            generations = [process.generate(np.asarray(prompt), 12) for prompt in PROMPTS]
            if same:  # the weights are random, and in bfloat16 a near tie falls either way
                assert [generation.ids for generation in generations] == [tuple(answer) for answer in answers]
            assert all(generation.first_seconds > 0 for generation in generations)
            assert all(generation.rest_seconds > 0 for generation in generations if len(generation.ids) > 1)
            evidence = process.evidence()
            assert evidence["precision"] == dtype
            assert set(evidence["kernels"]) == {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"}
            assert evidence["vocabulary"] == open_checkpoint(folder).vocabulary
            members = psutil.Process(os.getpid()).children(recursive=True)
        assert members
        assert not [child for child in members if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def test_texts_and_chats_are_those_of_its_server(self, folder, tmp_path):
        with opened(folder) as process:
            ids = process.tokenize("the time")
            assert ids[0] == 1
            assert process.detokenize(ids) == "the time"
            prompt = process.render([{"role": "user", "content": "the time"}])
            assert "the time" in prompt
        without = TinyModel(positions=CONTEXT, template=False).write(tmp_path / "without")
        with opened(without) as process, pytest.raises(NotApplicableError, match="makes no prompt of a chat"):
            process.render([{"role": "user", "content": "the time"}])

    @pytest.mark.skipif(COMPRESSOR is None, reason="the environment llm_compressor is not installed")
    @pytest.mark.parametrize(
        ("scheme", "kernel", "filled_in"),
        [
            ("W4A16", "CPUWNA16LinearKernel", ""),
            ("W8A8", "CPUInt8ScaledMMLinearKernel", ""),
            ("FP8_DYNAMIC", "ChannelWiseTorchFP8ScaledMMLinearKernel", ""),
            ("FP8", "PerTensorTorchFP8ScaledMMLinearKernel", "static_scaled_fp8_quant"),
        ],
    )
    def test_what_llm_compressor_writes_is_loaded_by_the_kernel_that_is_named(
        self, folder, tmp_path, scheme, kernel, filled_in
    ):
        target = tmp_path / "quantized"
        command = [str(COMPRESSOR.python), "-c", COMPRESS, str(folder), str(target), scheme]
        subprocess.run(command, capture_output=True, check=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
            (target / name).write_bytes((folder / name).read_bytes())
        with opened(folder) as process:
            plain = process.score(WINDOWS[:1], 1)[0].logprob
        with opened(target) as process:
            scores, evidence = process.score(WINDOWS[:1], 1)[0].logprob, process.evidence()
        assert any(name.startswith(kernel) for name in evidence["kernels"])
        assert evidence["filled_in"] == filled_in
        assert evidence["w4a8"] is False
        assert np.abs(scores - plain).mean() > 0
        assert np.corrcoef(scores, plain)[0, 1] > 0.8, "weights that are decoded wrongly have nothing to do with the source"

    def test_what_it_does_not_load_is_a_reason(self, folder, tmp_path):
        target = tmp_path / "unknown"
        TinyModel(positions=CONTEXT).write(target)
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "unheard-of"}}))
        with pytest.raises(CandidateRejectedError, match="vLLM does not load it"):
            opened(target).close()
