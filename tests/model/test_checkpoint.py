import json
import struct
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.checkpoint import Checkpoint, copy_companions, is_causal_folder, open_checkpoint
from tests.language_models import TinyModel, load_tensors, save_tensors

_INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    return TinyModel(layers=1).write(tmp_path / "model")


def _header(**fields):
    entry = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} | fields
    return {"weight": entry}


def _safetensors(path, header, data=b"1234"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("shards", [1, 3])
def test_headers_say_where_each_tensor_lies(tmp_path, shards):
    model = TinyModel(shards=shards)
    checkpoint = open_checkpoint(model.write(tmp_path))
    assert {name: entry.shape for name, entry in checkpoint.tensors.items()} == model.shapes()
    for name, tensor in model.tensors().items():
        entry = checkpoint.tensors[name]
        assert (tmp_path / entry.file).read_bytes()[entry.begin : entry.end] == tensor.tobytes()
    assert checkpoint.size == 2 * checkpoint.parameters == sum(tensor.nbytes for tensor in model.tensors().values())


def test_the_configuration_is_read(folder):
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.architecture, checkpoint.vocabulary, checkpoint.positions) == ("LlamaForCausalLM", 768, 256)
    assert checkpoint.quantization == {}
    assert checkpoint.text_config is checkpoint.config


def test_the_text_part_of_a_model_of_pictures_too_counts(folder):
    config = json.loads((folder / "config.json").read_text())
    outer = {"architectures": ["SeenForCausalLM"], "text_config": config, "quantization_config": {"quant_method": "awq"}}
    (folder / "config.json").write_text(json.dumps(outer))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.vocabulary == 768
    assert checkpoint.quantization == {"quant_method": "awq"}


def test_four_bit_types_are_packed(folder):
    _safetensors(folder / "model.safetensors", _header(dtype="F4", shape=[7]))
    assert open_checkpoint(folder).tensors["weight"].size == 4


@pytest.mark.parametrize(
    "config",
    [{}, {"architectures": None}, {"architectures": []}, {"architectures": 5}, {"architectures": [None]},
     {"architectures": ["BertModel"]}],
    ids=["missing", "null", "empty", "number", "null-inside", "another"],
)  # fmt: skip
def test_what_is_no_causal_model_is_said_to_be_none(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    assert not is_causal_folder(folder)
    with pytest.raises(UserError, match="no causal language model"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "list", "cut", "binary", "deep"]
)
def test_a_configuration_that_is_none_is_refused(folder, text):
    (folder / "config.json").write_bytes(text)
    assert not is_causal_folder(folder)
    with pytest.raises(UserError, match=r"config\.json"):
        open_checkpoint(folder)


def test_an_empty_folder_is_no_model(tmp_path):
    assert not is_causal_folder(tmp_path)
    with pytest.raises(UserError, match=r"has no config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/model.safetensors", "a/../../b.safetensors", "..\\b.safetensors"])
def test_an_index_does_not_lead_out_of_the_folder(folder, name):
    (folder / _INDEX).write_text(json.dumps({"weight_map": {"weight": name}}))
    with pytest.raises(UserError, match="outside of the folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["model.safetensors"]}, {"weight_map": None}])
def test_an_index_names_weights(folder, index):
    (folder / _INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="names no weights"):
        open_checkpoint(folder)


def test_a_missing_shard_is_named(tmp_path):
    TinyModel(shards=2).write(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is missing"):
        open_checkpoint(tmp_path)


def test_a_weight_that_no_file_has_is_named(tmp_path):
    TinyModel(shards=2).write(tmp_path)
    index = json.loads((tmp_path / _INDEX).read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    (tmp_path / _INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model\.layers\.9\.mlp\.up_proj\.weight"):
        open_checkpoint(tmp_path)


def test_a_weight_in_two_files_is_named(tmp_path):
    TinyModel(shards=2).write(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes((tmp_path / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight is in model-00001"):
        open_checkpoint(tmp_path)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle can run code"):
        open_checkpoint(folder)


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"123", struct.pack("<Q", 0), struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 100) + b"{}",
     struct.pack("<Q", 4) + b"{{}}", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 2) + b"\xff\xfe",
     struct.pack("<Q", 100_000) + b"[" * 100_000, b"<html>Not found</html>"],
    ids=["empty", "short", "none", "huge", "longer", "no-json", "list", "binary", "deep", "page"],
)  # fmt: skip
def test_a_damaged_header_is_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data_offsets": [0, 8]}, "lies outside"),
        ({"data_offsets": [4, 0]}, "lies outside"),
        ({"data_offsets": [-4, 0]}, "lies outside"),
        ({"data_offsets": [0, 3]}, "not as large"),
        ({"data_offsets": [0]}, "nothing says"),
        ({"data_offsets": None}, "nothing says"),
        ({"data_offsets": [0, float("inf")]}, "nothing says"),
        ({"shape": [-4]}, "lies outside"),
        ({"shape": [2**62, 4]}, "not as large"),
        ({"shape": "four"}, "nothing says"),
        ({"shape": [float("nan")]}, "nothing says"),
        ({"dtype": "object"}, "no type"),
        ({"dtype": None}, "no type"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(folder, fields, reason):
    _safetensors(folder / "model.safetensors", _header(**fields))
    with pytest.raises(UserError, match=reason):
        open_checkpoint(folder)


def test_tensors_do_not_overlap(folder):
    second = {"dtype": "U8", "shape": [3], "data_offsets": [2, 5]}
    _safetensors(folder / "model.safetensors", {**_header(), "second": second}, b"12345")
    with pytest.raises(UserError, match="second lies over weight"):
        open_checkpoint(folder)


def test_a_header_that_is_no_table_of_tensors_is_refused(folder):
    _safetensors(folder / "model.safetensors", {"weight": [1, 2]})
    with pytest.raises(UserError, match="nothing says where weight lies"):
        open_checkpoint(folder)


def test_what_travels_with_the_weights(folder, tmp_path):
    for name in ("modeling_evil.py", "tokenizer_evil.py", "notes.txt", "additional_chat_templates/tool.jinja"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    copied = copy_companions(folder, tmp_path / "copy", skip=("config.json",))
    assert copied == [
        "LICENSE", "README.md", "additional_chat_templates/tool.jinja", "generation_config.json", "tokenizer.json",
        "tokenizer.model", "tokenizer_config.json",
    ]  # fmt: skip
    for name in copied:
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()


def test_a_link_that_leaves_the_folder_is_left_behind(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    (folder / "NOTICE").symlink_to(folder / "LICENSE")
    (folder / "merges.txt").symlink_to(tmp_path / "nowhere")
    copied = copy_companions(folder, tmp_path / "copy")
    assert "README.md" not in copied
    assert "merges.txt" not in copied
    assert "NOTICE" in copied


def test_weights_behind_a_link_that_leaves_the_folder_are_refused(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UserError, match="outside of the folder"):
        open_checkpoint(folder)


def test_a_snapshot_of_the_hub_links_into_its_blobs(tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "1234"
    for directory in (blobs, snapshot):
        directory.mkdir(parents=True)
    for index, path in enumerate(sorted(TinyModel(layers=1).write(tmp_path / "model").iterdir())):
        path.rename(blobs / str(index))
        (snapshot / path.name).symlink_to(f"../../blobs/{index}")
    assert open_checkpoint(snapshot).architecture == "LlamaForCausalLM"
    assert "tokenizer.json" in copy_companions(snapshot, tmp_path / "copy")


def test_the_helpers_agree(tmp_path):
    model = TinyModel(layers=1, tied=True)
    tensors = load_tensors(model.write(tmp_path))
    assert tensors.keys() == model.tensors().keys()
    assert "lm_head.weight" not in tensors
    save_tensors(tmp_path / "model.safetensors", {"x": np.arange(6, dtype=np.int8).reshape(2, 3)})
    assert open_checkpoint(tmp_path).tensors["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "torch.bfloat16"}, "bfloat16"),
        ({"dtype": "float32", "text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"dtype": "float32", "text_config": {}}, "float32"),
        ({}, ""),
    ],
)
def test_the_type_is_that_of_the_text_model(config, dtype):
    assert Checkpoint(Path(), config, {}).dtype == dtype
