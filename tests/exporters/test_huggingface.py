import json
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.exporters._base import apply_in_child, reference_in_child, run_onnxruntime
from mopt.exporters._parity import compare
from mopt.exporters.huggingface import ExportHuggingface

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers", reason="transformers is an extra: pip install 'mopt[huggingface]'")
torch = pytest.importorskip("torch")

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}


def bert(folder: Path, **fields) -> Path:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=100, **SMALL, **fields)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def vit(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


def distilbert(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    transformers.DistilBertModel(config).save_pretrained(folder)
    return folder


def tokens(batch: int, length: int, *names: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 2, (batch, length)) | (name == "attention_mask") for name in names}


TEXT = ("input_ids", "attention_mask")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [
        (bert, {*TEXT, "token_type_ids"}, {"logits: float32[batch, 2]"}),
        (distilbert, set(TEXT), {"last_hidden_state: float32[batch, sequence, 32]"}),
    ],
    ids=["classifier", "encoder"],
)
def test_text(tmp_path: Path, make, inputs: set[str], outputs: set[str]) -> None:
    exporter = ExportHuggingface(source=str(make(tmp_path / "model")))
    assert ExportHuggingface.matches(exporter.source)
    signature = apply_in_child(exporter, tmp_path).signature
    assert {spec.name for spec in signature.inputs} == inputs
    assert all(spec.shape == ("batch", "sequence") for spec in signature.inputs)
    assert {str(spec) for spec in signature.outputs} == outputs
    feeds = [tokens(batch, length, *inputs) for batch, length in ((1, 3), (3, 40))]
    assert compare(reference_in_child(exporter, feeds), run_onnxruntime(tmp_path / "model.onnx", feeds)).problem == ""


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    exporter = ExportHuggingface(source=str(vit(tmp_path / "model")))
    signature = apply_in_child(exporter, tmp_path).signature
    assert [str(spec) for spec in signature.inputs] == ["pixel_values: float32[batch, 3, 32, 32]"]
    feeds = [{"pixel_values": np.random.default_rng(0).random((size, 3, 32, 32), dtype=np.float32)} for size in (1, 3)]
    assert compare(reference_in_child(exporter, feeds), run_onnxruntime(tmp_path / "model.onnx", feeds)).problem == ""


def test_every_file_but_other_forms_of_the_model_counts(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()
    exporter = ExportHuggingface(source=str(folder))
    assert {"config.json", "model.safetensors"} <= set(exporter.files())
    assert "onnx/model.onnx" not in exporter.files()
    before = exporter.digest()
    (folder / "tokenizer.json").write_text("{}")
    assert exporter.digest() != before


def edit(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel generates text"),
        ({"architectures": ["AcmeModel"], "auto_map": {"AutoModel": "acme.AcmeModel"}}, "code .* is never run"),
        ({"architectures": []}, "names no architecture"),
    ],
    ids=["generates", "remote-code", "no-architecture"],
)
def test_what_cannot_be_exported_is_the_users_mistake(tmp_path: Path, values: dict, message: str) -> None:
    folder = bert(tmp_path / "model")
    edit(folder, **values)
    with pytest.raises(UserError, match=message) as caught:
        ExportHuggingface(source=str(folder)).apply(tmp_path)
    assert caught.value.hint


def test_damaged_files_are_the_users_mistake(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="transformers cannot load"):
        apply_in_child(ExportHuggingface(source=str(folder)), tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="has no weights"):
        ExportHuggingface(source=str(folder)).apply(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not a model's configuration"):
        ExportHuggingface(source=str(folder)).apply(tmp_path)


def test_a_pickle_with_more_than_weights_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    folder = bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"bert.embeddings.word_embeddings.weight": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than weights"):
        apply_in_child(ExportHuggingface(source=str(folder)), tmp_path)
    assert not (tmp_path / "owned").exists()
