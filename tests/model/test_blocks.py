from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.model.checkpoint import open_checkpoint

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 128,
}  # fmt: skip
CASES = {
    "untied": lambda: transformers.LlamaConfig(**SHAPE),
    "tied": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "scaled-and-capped": lambda: transformers.Gemma2Config(**SHAPE, head_dim=16, sliding_window=8),
    "experts-are-merged": lambda: transformers.MixtralConfig(**SHAPE, num_local_experts=4),
    "positions-are-learned": lambda: transformers.GPT2Config(
        vocab_size=300, n_embd=64, n_layer=3, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
}


def save(folder: Path, config) -> None:
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def blocks_of(folder: Path):
    from mopt.model._blocks import BlockedModel

    return BlockedModel.open(open_checkpoint(folder))


@pytest.mark.parametrize("case", CASES)
def test_block_by_block_is_the_whole_model(tmp_path, case):
    save(tmp_path, CASES[case]())
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    batches = [torch.randint(3, 300, (2, 20)), torch.randint(3, 300, (1, 7))]
    model = blocks_of(tmp_path)
    with torch.inference_mode():
        model.load_inputs()
        flows = [model.begin(ids) for ids in batches]
        model.release_inputs()
        for index in range(3):
            model.load_block(index)
            assert sum(not next(block.parameters()).is_meta for block in model.blocks) == 1
            flows = [model.run(index, flow) for flow in flows]
            model.release_block(index)
        model.load_outputs()
        for ids, flow in zip(batches, flows, strict=True):
            expected = whole(input_ids=ids).logits
            assert torch.equal(model.end(flow), expected)
            torch.testing.assert_close(model.end(flow, slice(2, 5)), expected[:, 2:5], rtol=0, atol=1e-6)
        assert torch.equal(model.load_all()(input_ids=batches[0]).logits, whole(input_ids=batches[0]).logits)
    assert model.unused == ()


def test_tensors_that_lack_are_named(tmp_path):
    save(tmp_path, CASES["untied"]())
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors | {"model.layers.1.mlp.odd": torch.zeros(1)}, tmp_path / "model.safetensors")
    model = blocks_of(tmp_path)
    assert model.unused == ("model.layers.1.mlp.odd",)
    model.load_block(0)
    with pytest.raises(UserError, match=r"layers\.1 has no mlp\.up_proj\.weight"):
        model.load_block(1)


def test_a_tensor_of_another_size_is_named(tmp_path):
    save(tmp_path, CASES["untied"]())
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"model.norm.weight": torch.zeros(63)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.norm\.weight is \[63\], and config.json says \[64\]"):
        blocks_of(tmp_path).load_inputs()


def test_no_code_of_a_model_is_run(tmp_path):
    save(tmp_path, CASES["untied"]())
    config = (tmp_path / "config.json").read_text()
    own = '"auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},\n  "model_type": "odd"'
    (tmp_path / "config.json").write_text(config.replace('"model_type": "llama"', own))
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match="cannot build LlamaForCausalLM"):
        blocks_of(tmp_path)


def test_a_quantized_checkpoint_is_no_reference(tmp_path):
    save(tmp_path, CASES["untied"]())
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("{", '{"quantization_config": {"quant_method": "gptq"},', 1))
    with pytest.raises(UserError, match=r"quantized already \(gptq\)"):
        blocks_of(tmp_path)
