import struct

import numpy as np
import pytest

from mopt.artifacts.serving._warmup_records import _crc32c, prediction_log, records


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
    ids=["digits", "zeros", "ones", "counted"],
)
def test_checksums_are_those_of_rfc_3720(data, checksum):
    assert _crc32c(data) == checksum


@pytest.mark.parametrize("size", [4, 4095, 4096, 4097, 10_000])
def test_a_checksum_of_pieces_is_that_of_the_whole(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    checksum = 0xFFFFFFFF
    for byte in data:  # bit by bit, as the definition has it
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    assert _crc32c(data) == checksum ^ 0xFFFFFFFF


def test_a_record_is_its_length_its_data_and_their_checksums():
    (record,) = records([b"four bytes and more"])
    assert struct.unpack("<Q", record[:8]) == (19,)
    assert record[12:-4] == b"four bytes and more"
    assert len(record) == 8 + 4 + 19 + 4


def test_a_log_is_the_protobuf_that_the_server_reads():
    log = prediction_log("m", "s", {"x": np.float32([[1, 2]])})
    values = np.float32([1, 2]).tobytes()
    tensor = b"\x08\x01" + b"\x12\x08" + b"\x12\x02\x08\x01" + b"\x12\x02\x08\x02" + b"\x22\x08" + values
    entry = b"\x0a\x01x" + b"\x12" + bytes([len(tensor)]) + tensor
    request = b"\x0a\x06" + b"\x0a\x01m\x1a\x01s" + b"\x12" + bytes([len(entry)]) + entry
    inner = b"\x0a" + bytes([len(request)]) + request
    assert log == b"\x32" + bytes([len(inner)]) + inner


def test_text_is_written_as_strings():
    log = prediction_log("m", "s", {"x": np.array(["ä", "b" * 200], dtype=object)})
    assert b"\x42\x02" + "ä".encode() in log
    assert b"\x42\xc8\x01" + b"b" * 200 in log
