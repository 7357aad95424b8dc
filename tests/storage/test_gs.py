import base64

from mopt.storage.gs import GoogleStorage


def test_a_generation_is_the_version_and_the_md5_proves_the_content():
    digest = bytes.fromhex("b1946ac92492d2347c6235b4d2611184")
    info = {"size": 6, "generation": "1700000000000001", "etag": "x", "md5Hash": base64.b64encode(digest).decode()}
    file = GoogleStorage("gs://b/x").remote_file("x", info)
    assert (file.version, file.digests) == ("1700000000000001", {"md5": digest.hex()})
    assert "md5" in GoogleStorage.proves


def test_a_composed_object_has_no_md5():
    assert GoogleStorage("gs://b/x").remote_file("x", {"size": 6, "generation": "1"}).digests == {}


def test_kserve_takes_the_same_url():
    assert GoogleStorage("gs://b/models/a").serving_uri("model") == "gs://b/models/a/model"
