import struct
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.gguf import BLOCKS, is_gguf, open_gguf
from tests.gguf_files import LLAMA, array, gguf_bytes, string, write_gguf

WEIGHTS = {
    "token_embd.weight": (np.arange(128).reshape(4, 32), 1),
    "output_norm.weight": (np.ones(32), 0),
}


def test_metadata_and_tensors_are_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {**LLAMA, "llama.feed_forward_length": (64, 96), "x": True, "y": 0.5}, WEIGHTS)
    gguf = open_gguf(path)
    assert (gguf.architecture, gguf.context, gguf.tokenizer, gguf.file_type) == ("llama", 256, "llama", "F16")
    assert gguf.tokens == ("<unk>", "<s>", "</s>", "▁a")
    assert gguf.metadata["x"] is True
    assert gguf.metadata["y"] == 0.5
    assert gguf.number("feed_forward_length") == 96, "the largest of all layers"
    assert gguf.chat_template.endswith("assistant:")
    embedding = gguf.tensors["token_embd.weight"]
    assert (embedding.type, embedding.shape, embedding.size) == ("F16", (4, 32), 256)
    data = path.read_bytes()[embedding.offset : embedding.offset + embedding.size]
    assert np.array_equal(np.frombuffer(data, np.float16).reshape(4, 32), np.arange(128).reshape(4, 32))


def test_all_bits_are_counted(tmp_path: Path) -> None:
    gguf = open_gguf(write_gguf(tmp_path / "model.gguf", LLAMA, WEIGHTS))
    assert gguf.parameters == 128 + 32
    assert gguf.bits_per_weight == 8 * (256 + 128) / 160


def test_a_mixture_without_a_name_is_called_what_most_of_it_is(tmp_path: Path) -> None:
    nameless = {key: value for key, value in LLAMA.items() if key != "general.file_type"}
    assert open_gguf(write_gguf(tmp_path / "model.gguf", nameless, WEIGHTS)).file_type == "F16"


def test_another_alignment_is_kept_to(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {**LLAMA, "general.alignment": 8}, {"a.weight": (np.ones((1, 32)), 0)})
    assert open_gguf(path).tensors["a.weight"].offset % 8 == 0


def test_sizes_of_blocks_are_those_of_the_format() -> None:
    # Bits a weight as llama.cpp prints them for its types.
    published = {
        "Q4_0": 4.5,
        "Q8_0": 8.5,
        "Q4_K": 4.5,
        "Q6_K": 6.5625,
        "IQ4_XS": 4.25,
        "Q2_K": 2.625,
        "BF16": 16.0,
        "Q5_K": 5.5,
    }
    bits = {name: 8 * width / block for name, block, width in BLOCKS.values()}
    assert {name: bits[name] for name in published} == published


HUGE = 1 << 62
HOSTILE = {
    "no magic": (b"GGML" + gguf_bytes(LLAMA)[4:], "is no GGUF"),
    "shorter than its start": (gguf_bytes(LLAMA)[:20], "is no GGUF"),
    "an old version": (gguf_bytes(LLAMA, version=1), "it has version 1"),
    "big-endian": (gguf_bytes(LLAMA, version=3 << 24), "it is big-endian"),
    "more keys than bytes": (gguf_bytes(LLAMA, keys=HUGE), "do not fit"),
    "more tensors than bytes": (gguf_bytes(LLAMA, count=HUGE), "do not fit"),
    "more keys than there are": (gguf_bytes({"a": 1}, keys=2) + b"\1" * 64, "damaged"),
    "a key twice": (gguf_bytes({"a": 1}, keys=2)[: 24 + 17] + gguf_bytes({"a": 1})[24 : 24 + 17], "there twice"),
    "a string as long as the disk": (gguf_bytes({"a": struct.pack("<IQ", 8, HUGE)}), "belong to its header"),
    "an array of too many numbers": (gguf_bytes({"a": array(10, HUGE, b"")}), "belong to its header"),
    "an array of too many strings": (gguf_bytes({"a": array(8, HUGE, b"")}), "does not fit"),
    "an array of arrays": (gguf_bytes({"a": array(9, 1, b"\0" * 12)}), "type 9"),
    "an unknown type of a value": (gguf_bytes({"a": struct.pack("<II", 77, 0)}), "type 77"),
    "an alignment of three": (gguf_bytes({**LLAMA, "general.alignment": 3}, WEIGHTS), "no power of two"),
    "no alignment": (gguf_bytes({**LLAMA, "general.alignment": 0}, WEIGHTS), "no power of two"),
    "a tensor outside": (gguf_bytes(LLAMA, WEIGHTS, moved=1 << 40), "lies outside"),
    "a tensor between": (gguf_bytes(LLAMA, WEIGHTS, moved=4), "lies outside"),
    "cut short": (gguf_bytes(LLAMA, WEIGHTS)[:-64], "lies outside"),
    "five dimensions": (gguf_bytes(LLAMA, {"a.weight": (np.zeros((1,) * 5), 0)}), "5 dimensions"),
    "an empty tensor": (gguf_bytes(LLAMA, {"a.weight": (np.zeros((0, 32)), 0)}), "cannot have"),
    "a long name": (gguf_bytes(LLAMA, {"a" * 64: (np.zeros((1, 32)), 0)}), "too long"),
    "one of several parts": (gguf_bytes({**LLAMA, "split.count": 3}), "3 parts"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    data, reason = HOSTILE[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        open_gguf(path)
    assert reason in caught.value.message


def test_tensors_do_not_share_bytes(tmp_path: Path) -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 2, 0)
    for name in ("a.weight", "b.weight"):
        head += string(name) + struct.pack("<IQIQ", 1, 32, 0, 0)
    path = tmp_path / "model.gguf"
    path.write_bytes(head + b"\0" * 512)
    with pytest.raises(UserError, match=r"lies on top of a\.weight"):
        open_gguf(path)


def test_a_shape_that_overflows_is_refused(tmp_path: Path) -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + string("a.weight") + struct.pack("<IQQIQ", 2, 1 << 33, 1 << 33, 0, 0)
    path = tmp_path / "model.gguf"
    path.write_bytes(head + b"\0" * 512)
    with pytest.raises(UserError, match="lies outside"):
        open_gguf(path)


def test_rows_are_whole_blocks(tmp_path: Path) -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + string("a.weight") + struct.pack("<IQQIQ", 2, 100, 64, 12, 0)
    path = tmp_path / "model.gguf"
    path.write_bytes(head + b"\0" * 8192)
    with pytest.raises(UserError, match="Q4_K cannot have"):
        open_gguf(path)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = gguf_bytes(LLAMA, WEIGHTS)
    path = tmp_path / "model.gguf"
    for end in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            open_gguf(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_gguf(tmp_path / "model.gguf")
    assert not is_gguf(tmp_path / "model.gguf")
    assert is_gguf(write_gguf(tmp_path / "model.gguf", LLAMA))
