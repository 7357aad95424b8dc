"""Blocks that are built one at a time compute what transformers computes with the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.checkpoint import open_checkpoint
from mopt.passes.language.quantize_rtn import QuantizeRTN
from tests.language_models import TinyModel, vocabulary
from tests.passes.language.checkpoints import quantize, write_calibration

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def _states(folder: Path, windows: np.ndarray) -> list[object]:
    """Hidden states after the embedding and after each block but the last, as transformers has them."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return list(network(torch.from_numpy(windows.astype(np.int64)), output_hidden_states=True).hidden_states[:-1])


def _compare(folder: Path, windows: np.ndarray) -> None:
    from mopt.passes.language._architecture import Architecture

    architecture = Architecture(open_checkpoint(folder))
    arguments = architecture.arguments(windows.shape[1])
    hidden = torch.cat(list(architecture.embed(windows, 2)))
    for index, expected in enumerate(_states(folder, windows)):
        assert torch.allclose(hidden, expected, rtol=1e-4, atol=1e-4)
        hidden = architecture.build(index, arguments[index]).forward(hidden)


@pytest.mark.parametrize(
    ("architecture", "experts"),
    [
        ("LlamaForCausalLM", 0), ("Qwen2ForCausalLM", 0), ("Qwen3ForCausalLM", 0), ("Phi3ForCausalLM", 0),
        ("MixtralForCausalLM", 4), ("Qwen3MoeForCausalLM", 4),
    ],
)  # fmt: skip
def test_hidden_states_are_those_of_the_whole_model(architecture: str, experts: int, tmp_path: Path) -> None:
    folder = TinyModel(
        architecture=architecture, experts=experts, layers=3, biases=architecture.startswith("Qwen2")
    ).write(tmp_path / "source")  # fmt: skip
    _compare(folder, write_calibration(tmp_path / "windows", count=3).load())


def test_blocks_with_windows_and_scaled_embeddings_are_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=len(vocabulary()), hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    transformers.Gemma3ForCausalLM(config).save_pretrained(tmp_path / "source")
    _compare(tmp_path / "source", write_calibration(tmp_path / "windows", count=2, length=24).load())


def test_transposed_weights_are_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "source")
    from mopt.model.files import Model

    with pytest.raises(NotApplicableError, match="Conv1D"):
        quantize(QuantizeRTN(), Model.at("huggingface", tmp_path / "source"), tmp_path / "out")


def test_no_weight_of_the_model_has_memory(tmp_path: Path) -> None:
    from mopt.passes.language._architecture import Architecture

    architecture = Architecture(open_checkpoint(TinyModel().write(tmp_path)))
    assert all(parameter.is_meta for parameter in architecture.model.parameters())
