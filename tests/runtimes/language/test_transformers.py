"""The reference, in this process where transformers is installed, and in the child of its environment where that is."""

import json

import numpy as np
import pytest

from mopt.errors import NotApplicableError, UserError
from mopt.model.files import Model
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.transformers import Transformers, _batches
from mopt.system.environments import environment_names, find_environment

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def write_model(folder, *, template=True, **changes):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = {chr(code): place + 3 for place, code in enumerate(range(32, 127))}
    tokenizer = Tokenizer(models.BPE(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, **letters}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE if template else None
    fast.save_pretrained(folder)
    config = {
        "vocab_size": 98, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config | changes)).to(torch.bfloat16)
    model.save_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def windows_of(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(3, 98, size) for size in sizes]


def test_windows_of_one_length_go_together_in_batches_that_are_not_too_large():
    windows = [np.zeros(size) for size in (2048, 100, 2048, 2048, 100, 9000)]
    assert _batches(windows) == [[0, 2], [3], [1, 4], [5]]


def test_freed_weights_go_back_to_the_system():
    variables = Transformers(threads=3).environment()
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["MALLOC_MMAP_THRESHOLD_"] == "4194304"


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "block-by-block"])
def test_scores_are_those_of_the_whole_model(tmp_path, stream):
    import torch

    whole = write_model(tmp_path)
    session = Transformers(threads=1, stream=stream).open(tmp_path)
    windows = windows_of(20, 7, 20, 2)
    with torch.inference_mode():
        for window, scores in zip(windows, session.score(windows, 5), strict=True):
            expected = torch.log_softmax(whole(input_ids=torch.from_numpy(window)[None]).logits[0, :-1], dim=-1).numpy()
            np.testing.assert_allclose(scores.logprob, expected[np.arange(len(expected)), window[1:]], atol=2e-6)
            np.testing.assert_allclose(scores.top_logprobs, -np.sort(-expected, axis=1)[:, :5], atol=2e-6)
            assert (scores.top_ids.shape, scores.top_ids.dtype) == ((len(window) - 1, 5), np.int32)
    assert session.score(windows[:1], 1000)[0].top_ids.shape == (19, 98)
    assert session.evidence()["block by block"] is stream
    assert session.evidence()["vocabulary"] == 98


@pytest.mark.slow
def test_hidden_states_that_lie_on_disk_are_the_same(tmp_path, monkeypatch):
    from mopt.runtimes.language import transformers as module

    write_model(tmp_path)
    session = Transformers(threads=1, stream=True).open(tmp_path)
    held = session.score(windows_of(20, 9), 3)
    monkeypatch.setattr(module, "_HELD_BYTES", 0)
    monkeypatch.setattr(module, "_LOGIT_NUMBERS", 98 * 4)
    for left, right in zip(held, session.score(windows_of(20, 9), 3), strict=True):
        np.testing.assert_allclose(left.logprob, right.logprob, atol=2e-6)
        assert np.array_equal(left.top_ids, right.top_ids)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "block-by-block"])
def test_greedy_tokens_are_those_of_transformers(tmp_path, stream):
    import torch

    whole = write_model(tmp_path)
    session = Transformers(threads=1, stream=stream).open(tmp_path)
    prompt = windows_of(9)[0]
    expected = whole.generate(torch.from_numpy(prompt)[None], max_new_tokens=12, do_sample=False)[0, 9:].tolist()
    written = session.generate(prompt, 12)
    assert list(written.ids) == expected
    assert written.first_seconds > 0
    assert written.rest_seconds > 0
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [expected[3], 2]}))
    shorter = Transformers(threads=1, stream=stream).open(tmp_path).generate(prompt, 12)
    assert list(shorter.ids) == expected[: expected.index(expected[3]) + 1]


@pytest.mark.slow
def test_text_and_chats(tmp_path):
    write_model(tmp_path)
    session = Transformers(threads=1).open(tmp_path)
    ids = session.tokenize("a b")
    assert ids == [1, 68, 3, 69]
    assert session.detokenize(ids) == "a b"
    assert session.render([{"role": "user", "content": "hi"}]) == "<user>hi<bot>"
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(NotApplicableError, match="the chat template refuses this chat: no system role"):
        Transformers(threads=1).open(tmp_path).render([{"role": "system", "content": "hi"}])
    write_model(tmp_path / "bare", template=False)
    with pytest.raises(NotApplicableError, match="has no chat template"):
        Transformers(threads=1).open(tmp_path / "bare").render([{"role": "user", "content": "hi"}])


@pytest.mark.slow
def test_weights_that_the_architecture_has_no_place_for_are_no_reference(tmp_path):
    write_model(tmp_path, attention_bias=True)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"attention_bias": true', '"attention_bias": false'))
    with pytest.raises(UserError, match="holds 12 tensors that LlamaForCausalLM has no place for"):
        Transformers(threads=1).open(tmp_path)


@pytest.mark.slow
@pytest.mark.servers
def test_in_the_child_of_its_environment(tmp_path):
    if Transformers.tools not in environment_names() or find_environment(Transformers.tools) is None:
        pytest.skip("mopt tools install llm_compressor")
    write_model(tmp_path)
    with LanguageProcess(Transformers(threads=1, stream=True), Model.at("huggingface", tmp_path)) as process:
        here = Transformers(threads=1).open(tmp_path)
        (scores,), (expected,) = process.score(windows_of(9), 4), here.score(windows_of(9), 4)
        np.testing.assert_allclose(scores.logprob, expected.logprob, atol=1e-5)
        assert process.generate(windows_of(9)[0], 4).ids == here.generate(windows_of(9)[0], 4).ids
        assert process.tokenize("a b") == here.tokenize("a b")
        assert process.render([{"role": "user", "content": "hi"}]) == "<user>hi<bot>"
        assert process.evidence()["block by block"] is True
